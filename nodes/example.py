"""Example Picture: something to start from when the input folder is empty."""

from ..unclip_core.storybook.examples import EXAMPLES, example
from .builtin.load_image import LoadImage
from .files import content_hash, picture_problem
from .inputs import FAMILY


class UnCLIPExamplePicture:
    """A bundled picture and the mask of its object."""

    TITLE = "Example Picture"
    SEARCH_ALIASES = (*FAMILY, "load image", "sample", "demo", "mask", "test picture")
    DESCRIPTION = (
        "A picture that comes with the pack, 512 px, so that graphs run as they are. Put the editor's Load Image in "
        "its place for your own: the outputs are the same, image and mask. On the command line a file's name does it."
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

    @classmethod
    def VALIDATE_INPUTS(cls, name=None):
        if name is None or name in EXAMPLES or not (problem := picture_problem(name)):
            return True
        return f"{name!r} is neither an example ({', '.join(EXAMPLES)}) nor a picture of the input folder: {problem}"

    @classmethod
    def IS_CHANGED(cls, name=None, **_):
        return "" if name in EXAMPLES else content_hash(name)

    def load(self, *, name):
        import torch

        if name not in EXAMPLES:
            return LoadImage().load_image(name)
        picture, mask = example(name)
        return torch.from_numpy(picture.copy())[None].float() / 255.0, torch.from_numpy(mask.copy())[None]
