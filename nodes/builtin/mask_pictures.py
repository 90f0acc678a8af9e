"""From masks to pictures and back, as the editor's own nodes do it."""

_CHANNELS = ("red", "green", "blue", "alpha")


class MaskToImage:
    """A mask as a grey picture."""

    TITLE = "Convert Mask to Image"
    CATEGORY = "mask"
    FUNCTION = "execute"
    RETURN_TYPES = ("IMAGE",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"mask": ("MASK",)}}

    def execute(self, mask):
        return (grey_pictures(mask),)


class ImageToMask:
    """One channel of pictures as a mask."""

    TITLE = "Convert Image to Mask"
    CATEGORY = "mask"
    FUNCTION = "execute"
    RETURN_TYPES = ("MASK",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"image": ("IMAGE",), "channel": (list(_CHANNELS),)}}

    def execute(self, image, channel):
        place = _CHANNELS.index(channel)
        if place >= image.shape[-1]:
            present = ", ".join(_CHANNELS[: image.shape[-1]])
            raise ValueError(f"channel={channel}: the picture has none; choose one of {present}")
        return (image[..., place],)


class ImageColorToMask:
    """1 where a picture has exactly the colour, a number 0xRRGGBB."""

    TITLE = "ImageColorToMask"
    CATEGORY = "mask"
    FUNCTION = "execute"
    RETURN_TYPES = ("MASK",)

    @classmethod
    def INPUT_TYPES(cls):
        colour = ("INT", {"default": 0, "min": 0, "max": 0xFFFFFF, "step": 1, "display": "number"})
        return {"required": {"image": ("IMAGE",), "color": colour}}

    def execute(self, image, color):
        import torch

        wanted = torch.tensor([color >> 16, color >> 8 & 255, color & 255], device=image.device)
        levels = (image[..., :3].clamp(0.0, 1.0) * 255.0).round().int()
        return ((levels == wanted).all(-1).float(),)


def grey_pictures(mask):
    """A mask (..., H, W) as pictures (B, H, W, 3)."""
    return mask.reshape(-1, *mask.shape[-2:], 1).expand(-1, -1, -1, 3)


class SplitImageWithAlpha:
    """Pictures without their alpha, and 1 - alpha as a mask; 0 where there is none."""

    TITLE = "Split Image with Alpha"
    CATEGORY = "mask/compositing"
    FUNCTION = "execute"
    RETURN_TYPES = ("IMAGE", "MASK")

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"image": ("IMAGE",)}}

    def execute(self, image):
        import torch

        alpha = image[..., 3] if image.shape[-1] > 3 else torch.ones_like(image[..., 0])
        return image[..., :3].clone(), 1.0 - alpha


class JoinImageWithAlpha:
    """Pictures with 1 - mask as alpha. As in the editor, the shorter of the two batches says how many come out."""

    TITLE = "Join Image with Alpha"
    CATEGORY = "mask/compositing"
    FUNCTION = "execute"
    RETURN_TYPES = ("IMAGE",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"image": ("IMAGE",), "alpha": ("MASK",)}}

    def execute(self, image, alpha):
        import torch

        mask = alpha.to(image).reshape(-1, 1, *alpha.shape[-2:])
        mask = torch.nn.functional.interpolate(mask, size=image.shape[1:3], mode="bilinear").movedim(1, -1)
        count = min(len(image), len(mask))
        return (torch.cat([image[:count, ..., :3], 1.0 - mask[:count]], dim=-1),)
