"""Pictures cut, turned and extended, as the editor's own nodes do it, to the last bit."""

from .scaling import MAX_SIDE


class ImageCrop:
    """The part of pictures from (x, y) on; a corner outside is moved to the last pixel."""

    TITLE = "Image Crop"
    CATEGORY = "image/transform"
    FUNCTION = "execute"
    RETURN_TYPES = ("IMAGE",)

    @classmethod
    def INPUT_TYPES(cls):
        side = ("INT", {"default": 512, "min": 1, "max": MAX_SIDE, "step": 1})
        place = ("INT", {"default": 0, "min": 0, "max": MAX_SIDE, "step": 1})
        return {"required": {"image": ("IMAGE",), "width": side, "height": side, "x": place, "y": place}}

    def execute(self, image, width, height, x, y):
        left, top = min(x, image.shape[2] - 1), min(y, image.shape[1] - 1)
        return (image[:, top : top + height, left : left + width],)


class ImageFlip:
    """Pictures upside down, or as in a mirror."""

    TITLE = "ImageFlip"
    CATEGORY = "image/transform"
    FUNCTION = "execute"
    RETURN_TYPES = ("IMAGE",)
    METHODS = ("x-axis: vertically", "y-axis: horizontally")

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"image": ("IMAGE",), "flip_method": (list(cls.METHODS),)}}

    def execute(self, image, flip_method):
        return (image.flip(1 + self.METHODS.index(flip_method)),)


class ImageRotate:
    """Pictures turned clockwise by quarters."""

    TITLE = "ImageRotate"
    CATEGORY = "image/transform"
    FUNCTION = "execute"
    RETURN_TYPES = ("IMAGE",)
    ROTATIONS = ("none", "90 degrees", "180 degrees", "270 degrees")

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"image": ("IMAGE",), "rotation": (list(cls.ROTATIONS),)}}

    def execute(self, image, rotation):
        return (image.rot90(self.ROTATIONS.index(rotation), (2, 1)),)


class ImagePadForOutpaint:
    """Pictures with grey added at their sides, and the mask of what was added (1). Inside it fades over `feathering`
    pixels, as the square of the distance; not at all when both sides' fading would meet."""

    TITLE = "Pad Image for Outpainting"
    CATEGORY = "image"
    FUNCTION = "execute"
    RETURN_TYPES = ("IMAGE", "MASK")

    @classmethod
    def INPUT_TYPES(cls):
        added = ("INT", {"default": 0, "min": 0, "max": MAX_SIDE, "step": 8})
        feathering = ("INT", {"default": 40, "min": 0, "max": MAX_SIDE, "step": 1})
        sides = dict.fromkeys(("left", "top", "right", "bottom"), added)
        return {"required": {"image": ("IMAGE",), **sides, "feathering": feathering}}

    def execute(self, image, left, top, right, bottom, feathering):
        import torch

        height, width = image.shape[1:3]
        padded = torch.nn.functional.pad(image.float(), (0, 0, left, right, top, bottom), value=0.5)
        inside = torch.zeros(height, width)
        if 0 < 2 * feathering < min(height, width):
            down = _distance(height, bool(top), bool(bottom))
            across = _distance(width, bool(left), bool(right))
            distance = torch.minimum(down[:, None], across[None, :])
            inside = (((feathering - distance) / feathering).clamp(min=0) ** 2).float()
        mask = torch.nn.functional.pad(inside, (left, right, top, bottom), value=1.0)
        return (padded, mask[None])


def _distance(size: int, start: bool, end: bool):
    """How far the pixels of a side of `size` lie from the ends that count, float64; `size` where none does."""
    import torch

    places = torch.arange(size, dtype=torch.float64)
    far = torch.full_like(places, size)
    return torch.minimum(places if start else far, size - places if end else far)


class GetImageSize:
    """Width and height of pictures in pixels, and how many they are."""

    TITLE = "Get Image Size"
    CATEGORY = "image"
    FUNCTION = "execute"
    RETURN_TYPES = ("INT", "INT", "INT")
    RETURN_NAMES = ("width", "height", "batch_size")

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"image": ("IMAGE",)}}

    def execute(self, image):
        count, height, width = image.shape[:3]
        return (width, height, count)


class EmptyImage:
    """Pictures of one colour, a number 0xRRGGBB."""

    TITLE = "EmptyImage"
    CATEGORY = "image"
    FUNCTION = "execute"
    RETURN_TYPES = ("IMAGE",)

    @classmethod
    def INPUT_TYPES(cls):
        side = ("INT", {"default": 512, "min": 1, "max": MAX_SIDE, "step": 1})
        return {
            "required": {
                "width": side,
                "height": side,
                "batch_size": ("INT", {"default": 1, "min": 1, "max": 4096}),
                "color": ("INT", {"default": 0, "min": 0, "max": 0xFFFFFF, "step": 1, "display": "color"}),
            }
        }

    def execute(self, width, height, batch_size, color):
        import torch

        levels = torch.tensor([(color >> shift & 255) / 255 for shift in (16, 8, 0)])
        return (levels.repeat(batch_size, height, width, 1),)
