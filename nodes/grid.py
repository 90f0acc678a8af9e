"""Image Grid: pictures side by side, with labels."""

from .inputs import FAMILY, further_inputs, linked


class UnCLIPImageGrid:
    """Batches of pictures as one picture."""

    TITLE = "Image Grid (unCLIP)"
    SEARCH_ALIASES = (*FAMILY, "contact sheet", "collage", "side by side", "labels", "compare")
    DESCRIPTION = (
        "Puts pictures side by side on one sheet, with labels if you like. With one batch linked it is broken into "
        "rows of `columns`; with several, each batch is a row of its own. Smaller pictures are enlarged to the largest."
    )
    CATEGORY = "unCLIP/picture"
    FUNCTION = "draw"
    RETURN_TYPES = ("IMAGE",)
    RETURN_NAMES = ("IMAGE",)
    OUTPUT_TOOLTIPS = ("One picture: the whole grid.",)

    @classmethod
    def INPUT_TYPES(cls):
        labels = "one a line. Empty: none."
        return {
            "required": {
                "image": ("IMAGE", {"tooltip": "The pictures, or the first row of them."}),
                "columns": (
                    "INT",
                    {
                        "default": 0,
                        "min": 0,
                        "max": 100,
                        "tooltip": "Cells in a row, when only one batch is linked. 0: as many as make it a square.",
                    },
                ),
                "row_labels": (
                    "STRING",
                    {"multiline": True, "default": "", "tooltip": f"Labels at the left, {labels}"},
                ),
                "column_labels": (
                    "STRING",
                    {"multiline": True, "default": "", "tooltip": f"Labels on top, {labels}"},
                ),
                "gap": ("INT", {"default": 4, "min": 0, "max": 64, "tooltip": "Pixels between the cells."}),
                "cell_height": (
                    "INT",
                    {
                        "default": 0,
                        "min": 0,
                        "max": 2048,
                        "tooltip": "Pixels of a cell's height. 0: that of the largest picture.",
                    },
                ),
            },
            "optional": further_inputs("IMAGE", "image", "Row {number}."),
        }

    def draw(self, *, image, columns, row_labels, column_labels, gap, cell_height, **further):
        from ..unclip_core.pictures.drawing import labelled_grid, near_square, same_size

        batches = linked("image", image, further)
        rows = same_size(batches, cell_height)
        if len(rows) == 1:
            rows = list(rows[0].split(columns or near_square(len(rows[0]))))
        return (labelled_grid(rows, _lines(row_labels), _lines(column_labels), gap),)


def _lines(labels: str) -> list[str]:
    return [line.strip() for line in labels.strip().splitlines()]
