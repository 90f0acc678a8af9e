"""Pictures put beside each other, or on a larger canvas, as the editor's own nodes do it."""

from types import MappingProxyType

from .scaling import MAX_SIDE, scaled


class ImageStitch:
    """`image2` beside `image1`, with a strip between them; batches of unequal length repeat their last picture."""

    TITLE = "Image Stitch"
    CATEGORY = "image/transform"
    FUNCTION = "execute"
    RETURN_TYPES = ("IMAGE",)
    COLOURS = MappingProxyType(
        {"white": (1, 1, 1), "black": (0, 0, 0), "red": (1, 0, 0), "green": (0, 1, 0), "blue": (0, 0, 1)}
    )

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "image1": ("IMAGE",),
                "direction": (["right", "down", "left", "up"], {"default": "right"}),
                "match_image_size": ("BOOLEAN", {"default": True}),
                "spacing_width": ("INT", {"default": 0, "min": 0, "max": 1024, "step": 2}),
                "spacing_color": (list(cls.COLOURS), {"default": "white"}),
            },
            "optional": {"image2": ("IMAGE",)},
        }

    def execute(self, image1, direction, match_image_size, spacing_width, spacing_color, image2=None):
        import torch

        if image2 is None:
            return (image1,)
        along, across = (2, 1) if direction in ("left", "right") else (1, 2)
        pair = [_lengthened(image, max(len(image1), len(image2))) for image in (image1, image2)]
        if match_image_size:
            pair[1] = _matched(pair[1], pair[0].shape[across], across)
        else:
            side = max(image.shape[across] for image in pair)
            # The editor fills up in white and black only; any other colour counts as black.
            pair = [_centred(image, side, across, float(spacing_color == "white")) for image in pair]
        channels = max(image.shape[-1] for image in pair)
        pair = [torch.nn.functional.pad(image, (0, channels - image.shape[-1]), value=1.0) for image in pair]
        if direction in ("left", "up"):
            pair.reverse()
        if spacing_width:
            shape = [*pair[0].shape]
            shape[along] = spacing_width + spacing_width % 2
            colour = torch.tensor([*self.COLOURS[spacing_color], 1.0])[:channels]
            pair.insert(1, colour.to(pair[0]).expand(shape))
        return (torch.cat(pair, dim=along),)


class ResizeAndPadImage:
    """Pictures scaled to fit into a size, in the middle of a canvas of it."""

    TITLE = "ResizeAndPadImage"
    CATEGORY = "image/transform"
    FUNCTION = "execute"
    RETURN_TYPES = ("IMAGE",)

    @classmethod
    def INPUT_TYPES(cls):
        side = ("INT", {"default": 512, "min": 1, "max": MAX_SIDE, "step": 1})
        return {
            "required": {
                "image": ("IMAGE",),
                "target_width": side,
                "target_height": side,
                "padding_color": (["white", "black"],),
                "interpolation": (["area", "bicubic", "nearest-exact", "bilinear", "lanczos"],),
            }
        }

    def execute(self, image, target_width, target_height, padding_color, interpolation):
        height, width = image.shape[1:3]
        factor = min(target_width / width, target_height / height)
        small = scaled(image, max(1, int(width * factor)), max(1, int(height * factor)), interpolation, False)
        canvas = image.new_full((len(image), target_height, target_width, image.shape[-1]), padding_color == "white")
        height, width = small.shape[1:3]
        top, left = (target_height - height) // 2, (target_width - width) // 2
        canvas[:, top : top + height, left : left + width] = small
        return (canvas,)


def _lengthened(image, count: int):
    """A batch with its last picture repeated up to `count`."""
    import torch

    return torch.cat([image, image[-1:].expand(count - len(image), -1, -1, -1)]) if len(image) < count else image


def _matched(image, side: int, across: int):
    """Pictures scaled so that dimension `across` has a length; both sides follow."""
    proportions = image.shape[2] / image.shape[1]
    width, height = (int(side * proportions), side) if across == 1 else (side, int(side / proportions))
    return scaled(image, max(1, width), max(1, height), "lanczos", False)


def _centred(image, side: int, across: int, value: float):
    """Pictures (B, H, W, C) filled up on both ends of dimension `across`."""
    import torch

    more = side - image.shape[across]
    ends = [more // 2, more - more // 2]
    return torch.nn.functional.pad(image, [0, 0, *([0, 0] if across == 1 else []), *ends], value=value)
