"""ImageScale and ImageBatch as the editor has them, to the last bit."""

_METHODS = ["nearest-exact", "bilinear", "area", "bicubic", "lanczos"]
_MAX_SIDE = 16384


class ImageScale:
    """Pictures brought to a size; a side of 0 follows from the other, both 0 leave the pictures alone."""

    TITLE = "Upscale Image"
    CATEGORY = "image/upscaling"
    FUNCTION = "upscale"
    RETURN_TYPES = ("IMAGE",)

    @classmethod
    def INPUT_TYPES(cls):
        side = ("INT", {"default": 512, "min": 0, "max": _MAX_SIDE, "step": 1})
        return {
            "required": {
                "image": ("IMAGE",),
                "upscale_method": (_METHODS,),
                "width": side,
                "height": side,
                "crop": (["disabled", "center"],),
            }
        }

    def upscale(self, image, upscale_method, width, height, crop):
        if width == 0 and height == 0:
            return (image,)
        old_height, old_width = image.shape[1:3]
        width = width or max(1, round(old_width * height / old_height))
        height = height or max(1, round(old_height * width / old_width))
        return (scaled(image, width, height, upscale_method, crop == "center"),)


class ImageBatch:
    """Two batches as one. The second takes the first's size, cut at the middle."""

    TITLE = "Batch Images"
    CATEGORY = "image"
    FUNCTION = "batch"
    RETURN_TYPES = ("IMAGE",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"image1": ("IMAGE",), "image2": ("IMAGE",)}}

    def batch(self, image1, image2):
        import torch

        if image1.shape[1:] != image2.shape[1:]:
            image2 = scaled(image2, image1.shape[2], image1.shape[1], "bilinear", True)
        return (torch.cat((image1, image2)),)


def scaled(image, width: int, height: int, method: str, centre: bool):
    """Pictures (B, H, W, C) at another size; `centre` cuts them to the new proportions first."""
    import torch

    pixels = image.movedim(-1, 1)
    if centre:
        pixels = _cut_to_proportions(pixels, width / height)
    if method == "lanczos":
        return torch.stack([_lanczos(picture, width, height) for picture in pixels.movedim(1, -1)]).to(image)
    return torch.nn.functional.interpolate(pixels, size=(height, width), mode=method).movedim(1, -1)


def _cut_to_proportions(pixels, wanted: float):
    """The middle of pictures (B, C, H, W) with width / height about as wanted, whole pixels on both sides."""
    height, width = pixels.shape[-2:]
    present = width / height
    left = round((width - width * (wanted / present)) / 2) if present > wanted else 0
    top = round((height - height * (present / wanted)) / 2) if present < wanted else 0
    return pixels[..., top : height - top, left : width - left]


def _lanczos(picture, width: int, height: int):
    """One picture (H, W, C), by Pillow at 8 bit."""
    import numpy as np
    import torch
    from PIL import Image

    small = Image.fromarray(np.clip(255.0 * picture.cpu().numpy(), 0, 255).astype(np.uint8))
    resized = small.resize((width, height), resample=Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(resized).astype(np.float32) / 255.0)
