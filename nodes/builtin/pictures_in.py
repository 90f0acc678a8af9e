"""LoadImage and LoadImageMask as the editor has them: EXIF turned, frames as a batch, mask 1 where transparent."""

import contextlib

from ..files import annotated_path, content_hash, input_pictures, picture_problem

_MAX_PIXELS = 1 << 29  # of all frames: 6 GB as float32; an animation of a few kB can hold more than any memory


class LoadImage:
    """A picture of the input folder as IMAGE (B, H, W, 3), and 1 - alpha as MASK (B, H, W)."""

    TITLE = "Load Image"
    CATEGORY = "image"
    FUNCTION = "load_image"
    RETURN_TYPES = ("IMAGE", "MASK")

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"image": (input_pictures(), {"image_upload": True})}}

    @classmethod
    def VALIDATE_INPUTS(cls, image=None):
        return True if image is None else picture_problem(image) or True

    @classmethod
    def IS_CHANGED(cls, image=None, **_):
        return content_hash(image)

    def load_image(self, image):
        import torch
        from PIL import ImageSequence

        images, masks, size, pixels = [], [], None, 0
        with _opened(image) as file:
            for frame in ImageSequence.Iterator(file):
                pixels += frame.width * frame.height
                if pixels > _MAX_PIXELS:
                    raise ValueError(f"{image}: its frames have more than {_MAX_PIXELS:,} pixels; give a part of it")
                picture = _upright(frame)
                size = size or picture.size
                if picture.size != size:  # thumbnails and icon variants are not frames
                    continue
                images.append(_floats(picture.convert("RGB")))
                masks.append(_transparency(picture))
                if file.format == "MPO":  # its other frames are the same picture for other displays
                    break
        return torch.stack(images), torch.stack(masks)


class LoadImageMask:
    """One channel of a picture as MASK (1, H, W). Alpha is inverted: 1 where transparent."""

    TITLE = "Load Image (as Mask)"
    CATEGORY = "mask"
    FUNCTION = "load_image"
    RETURN_TYPES = ("MASK",)

    @classmethod
    def INPUT_TYPES(cls):
        channels = (["alpha", "red", "green", "blue"],)
        return {"required": {"image": (input_pictures(), {"image_upload": True}), "channel": channels}}

    @classmethod
    def VALIDATE_INPUTS(cls, image=None):
        return True if image is None else picture_problem(image) or True

    @classmethod
    def IS_CHANGED(cls, image=None, **_):
        return content_hash(image)

    def load_image(self, image, channel):
        with _opened(image) as file:
            # A picture without alpha becomes opaque, so that its alpha mask is all 0.
            values = _floats(_upright(file).convert("RGBA").getchannel(channel[0].upper()))[None]
        return (1.0 - values if channel == "alpha" else values,)


@contextlib.contextmanager
def _opened(name: str):
    """The picture, open. Raises ValueError that names it when it is none, is broken, or is too large."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(annotated_path(name)) as file:
            yield file
    except Image.DecompressionBombError:
        limit = 2 * Image.MAX_IMAGE_PIXELS
        raise ValueError(f"{name} has more than {limit:,} pixels; make it smaller") from None
    except UnidentifiedImageError:
        raise ValueError(f"{name} is not a picture that can be read; save it as PNG") from None
    except (OSError, SyntaxError, EOFError) as error:  # what Pillow's readers raise on broken files
        raise ValueError(f"{name} cannot be read ({error}); save it again") from error


def _upright(frame):
    """The frame turned as its EXIF says, 32-bit grey brought to 8 bit. What a cut-off file lacks is grey."""
    from PIL import ImageFile, ImageOps

    try:
        picture = ImageOps.exif_transpose(frame)
    except (OSError, ValueError):
        before, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, True
        try:
            picture = ImageOps.exif_transpose(frame)
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES = before
    return picture.point(lambda value: value * (1 / 255)) if picture.mode == "I" else picture


def _floats(picture):
    """8-bit pixels as float32 in 0..1, (H, W) or (H, W, C)."""
    import numpy as np
    import torch

    return torch.from_numpy(np.array(picture).astype(np.float32) / 255.0)


def _transparency(picture):
    """1 - alpha (H, W); 64 x 64 zeros when there is no alpha, which is the editor's way of saying "no mask"."""
    import torch

    if "A" in picture.getbands():
        return 1.0 - _floats(picture.getchannel("A"))
    if picture.mode == "P" and "transparency" in picture.info:
        return 1.0 - _floats(picture.convert("RGBA").getchannel("A"))
    return torch.zeros((64, 64))
