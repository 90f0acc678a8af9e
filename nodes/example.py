"""Example Picture: something to start from when the input folder is empty."""

from ..unclip_core.storybook.examples import EXAMPLES, example
from .inputs import FAMILY


class UnCLIPExamplePicture:
    """A bundled picture and the mask of its object."""

    TITLE = "Example Picture"
    SEARCH_ALIASES = (*FAMILY, "load image", "sample", "demo", "mask", "test picture")
    DESCRIPTION = (
        "A picture that comes with the pack, 512 px, so that graphs run as they are. Put the editor's Load Image in "
        "its place for your own: the outputs are the same, image and mask."
    )
    CATEGORY = "unCLIP/picture"
    FUNCTION = "load"
    RETURN_TYPES = ("IMAGE", "MASK")
    RETURN_NAMES = ("IMAGE", "MASK")
    OUTPUT_TOOLTIPS = ("The picture.", "Where its object is: 1 inside, with a margin, for inpainting.")

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "name": (list(EXAMPLES), {"tooltip": "Which picture."}),
            }
        }

    def load(self, *, name):
        import torch

        picture, mask = example(name)
        return torch.from_numpy(picture.copy())[None].float() / 255.0, torch.from_numpy(mask.copy())[None]
