"""Pictures as tensors: fitting any IMAGE and MASK to a square, resizing, grids with labels."""
