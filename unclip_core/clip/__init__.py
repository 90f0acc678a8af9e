"""CLIP as the stacks use it: captions and pictures to embeddings, PCA of embeddings, zero-shot classification."""
