"""Pictures brought to other sizes as the editor's own nodes do it, to the last bit."""

import math

_METHODS = ["nearest-exact", "bilinear", "area", "bicubic", "lanczos"]
MAX_SIDE = 16384


class ImageScale:
    """Pictures brought to a size; a side of 0 follows from the other, both 0 leave the pictures alone."""

    TITLE = "Upscale Image"
    CATEGORY = "image/upscaling"
    FUNCTION = "upscale"
    RETURN_TYPES = ("IMAGE",)

    @classmethod
    def INPUT_TYPES(cls):
        side = ("INT", {"default": 512, "min": 0, "max": MAX_SIDE, "step": 1})
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


class ImageScaleBy:
    """Pictures scaled by a factor."""

    TITLE = "Upscale Image By"
    CATEGORY = "image/upscaling"
    FUNCTION = "upscale"
    RETURN_TYPES = ("IMAGE",)

    @classmethod
    def INPUT_TYPES(cls):
        factor = ("FLOAT", {"default": 1.0, "min": 0.01, "max": 8.0, "step": 0.01})
        return {"required": {"image": ("IMAGE",), "upscale_method": (_METHODS,), "scale_by": factor}}

    def upscale(self, image, upscale_method, scale_by):
        height, width = (_at_least_one(side * scale_by) for side in image.shape[1:3])
        return (scaled(image, width, height, upscale_method, False),)


class ImageScaleToTotalPixels:
    """Pictures scaled to about so many million pixels (of 1024 x 1024), both sides multiples of `resolution_steps`."""

    TITLE = "Scale Image to Total Pixels"
    CATEGORY = "image/upscaling"
    FUNCTION = "upscale"
    RETURN_TYPES = ("IMAGE",)

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "image": ("IMAGE",),
                "upscale_method": (_METHODS,),
                "megapixels": ("FLOAT", {"default": 1.0, "min": 0.01, "max": 16.0, "step": 0.01}),
                "resolution_steps": ("INT", {"default": 1, "min": 1, "max": 256}),
            }
        }

    def upscale(self, image, upscale_method, megapixels, resolution_steps=1):
        old_height, old_width = image.shape[1:3]
        factor = math.sqrt(megapixels * 1024 * 1024 / (old_width * old_height))
        sides = (_at_least_one(side * factor / resolution_steps) * resolution_steps for side in (old_width, old_height))
        return (scaled(image, *sides, upscale_method, False),)


class ImageScaleToMaxDimension:
    """Pictures scaled so that their longer side has a length."""

    TITLE = "ImageScaleToMaxDimension"
    CATEGORY = "image/upscaling"
    FUNCTION = "upscale"
    RETURN_TYPES = ("IMAGE",)

    @classmethod
    def INPUT_TYPES(cls):
        methods = ["area", "lanczos", "bilinear", "nearest-exact", "bilinear", "bicubic"]
        side = ("INT", {"default": 512, "min": 0, "max": MAX_SIDE, "step": 1})
        return {"required": {"image": ("IMAGE",), "upscale_method": (methods,), "largest_size": side}}

    def upscale(self, image, upscale_method, largest_size):
        if largest_size == 0:
            raise ValueError("largest_size=0 leaves no picture; give 1 or more")
        height, width = image.shape[1:3]
        if height > width:
            sides = (_at_least_one(width / height * largest_size), largest_size)
        else:
            sides = (largest_size, _at_least_one(height / width * largest_size))
        return (scaled(image, *sides, upscale_method, False),)


def _at_least_one(side: float) -> int:
    return max(1, round(side))


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
