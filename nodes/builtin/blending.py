"""Pictures mixed and laid over each other, as the editor's own nodes do it."""

from .scaling import MAX_SIDE, scaled


class ImageInvert:
    """1 - picture."""

    TITLE = "Invert Image"
    CATEGORY = "image"
    FUNCTION = "execute"
    RETURN_TYPES = ("IMAGE",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"image": ("IMAGE",)}}

    def execute(self, image):
        return (1.0 - image,)


class ImageBlend:
    """`image1` mixed with what a blend mode makes of both; `image2` takes its size, cut at the middle.

    The modes are those of the W3C's Compositing and Blending Level 1, but for `difference`, which is not made positive.
    """

    TITLE = "Image Blend"
    CATEGORY = "image/postprocessing"
    FUNCTION = "execute"
    RETURN_TYPES = ("IMAGE",)
    MODES = ("normal", "multiply", "screen", "overlay", "soft_light", "difference")

    @classmethod
    def INPUT_TYPES(cls):
        factor = ("FLOAT", {"default": 0.5, "min": 0.0, "max": 1.0, "step": 0.01})
        pictures = {"image1": ("IMAGE",), "image2": ("IMAGE",)}
        return {"required": {**pictures, "blend_factor": factor, "blend_mode": (list(cls.MODES),)}}

    def execute(self, image1, image2, blend_factor, blend_mode):
        if 1 not in (len(image1), len(image2)) and len(image1) != len(image2):
            raise ValueError(
                f"image1 has {len(image1)} pictures and image2 {len(image2)}; give one, or as many of both"
            )
        image2 = _like(image1, image2)
        if image1.shape[1:3] != image2.shape[1:3]:
            image2 = scaled(image2, image1.shape[2], image1.shape[1], "bicubic", True)
        mixed = image1 * (1 - blend_factor) + _blended(image1, image2, blend_mode) * blend_factor
        return (mixed.clamp(0, 1),)


def _blended(below, above, mode: str):
    import torch

    if mode == "multiply":
        return below * above
    if mode == "screen":
        return 1 - (1 - below) * (1 - above)
    if mode == "overlay":
        return torch.where(below <= 0.5, 2 * below * above, 1 - 2 * (1 - below) * (1 - above))
    if mode == "soft_light":
        lightened = torch.where(below <= 0.25, ((16 * below - 12) * below + 4) * below, below.sqrt())
        darker = below - (1 - 2 * above) * below * (1 - below)
        return torch.where(above <= 0.5, darker, below + (2 * above - 1) * (lightened - below))
    return below - above if mode == "difference" else above


class ImageCompositeMasked:
    """`source` laid on `destination` with its corner at (x, y), where the mask is 1; without a mask all of it."""

    TITLE = "ImageCompositeMasked"
    CATEGORY = "image"
    FUNCTION = "execute"
    RETURN_TYPES = ("IMAGE",)

    @classmethod
    def INPUT_TYPES(cls):
        place = ("INT", {"default": 0, "min": 0, "max": MAX_SIDE, "step": 1})
        return {
            "required": {
                "destination": ("IMAGE",),
                "source": ("IMAGE",),
                "x": place,
                "y": place,
                "resize_source": ("BOOLEAN", {"default": False}),
            },
            "optional": {"mask": ("MASK",)},
        }

    def execute(self, destination, source, x, y, resize_source, mask=None):
        import torch

        result, source = destination.clone(), _like(destination, source)
        if resize_source:
            source = scaled(source, result.shape[2], result.shape[1], "bilinear", False)
        below = result[:, y : y + source.shape[1], x : x + source.shape[2]]  # a view: what changes it changes `result`
        height, width = below.shape[1:3]
        above = _repeated(source, len(result))[:, :height, :width]
        if mask is None:
            below.copy_(above)
        else:
            share = mask.to(result.device).reshape(-1, 1, *mask.shape[-2:])
            share = torch.nn.functional.interpolate(share, size=source.shape[1:3], mode="bilinear").movedim(1, -1)
            share = _repeated(share, len(result))[:, :height, :width]
            below.copy_(share * above + (1 - share) * below)
        return (result,)


def _like(first, second):
    """`second` on the device of `first` and with as many channels: alpha is dropped, or is opaque."""
    import torch

    channels = first.shape[-1]
    second = second.to(first.device)[..., :channels]
    return torch.nn.functional.pad(second, (0, channels - second.shape[-1]), value=1.0)


def _repeated(values, count: int):
    """The first dimension repeated, or cut, to `count`."""
    times = -(-count // len(values))
    return values.repeat(times, *[1] * (values.ndim - 1))[:count]
