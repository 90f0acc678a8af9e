"""LoadImage and LoadImageMask as the editor has them: EXIF turned, frames as a batch, mask 1 where transparent."""

from ..files import annotated_path, content_hash, input_pictures, picture_problem


class _Picture:
    """What is asked of a picture's name before it is loaded, and whether to load it again."""

    FUNCTION = "load_image"

    @classmethod
    def VALIDATE_INPUTS(cls, image=None):
        return True if image is None else picture_problem(image) or True

    @classmethod
    def IS_CHANGED(cls, image=None, **_):
        return content_hash(image)


class LoadImage(_Picture):
    """A picture of the input folder as IMAGE (B, H, W, 3), and 1 - alpha as MASK (B, H, W)."""

    TITLE = "Load Image"
    CATEGORY = "image"
    RETURN_TYPES = ("IMAGE", "MASK")

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"image": (input_pictures(), {"image_upload": True})}}

    def load_image(self, image):
        import torch

        from ...unclip_core.pictures.opening import frames

        colours, masks, size = [], [], None
        with _opened(image) as file:
            for frame in frames(file, image):
                picture = _upright(frame)
                size = size or picture.size
                if picture.size != size:  # thumbnails and icon variants are not frames
                    continue
                colours.append(_pixels(picture.convert("RGB")))
                masks.append(_transparency(picture))
                if file.format == "MPO":  # its other frames are the same picture for other displays
                    break
        images = torch.empty((len(colours), *colours[0].shape))
        for index, values in enumerate(colours):
            _to_floats(values, images[index])
        return images, torch.stack(masks)


class LoadImageMask(_Picture):
    """One channel of a picture as MASK (1, H, W). Alpha is inverted: 1 where transparent."""

    TITLE = "Load Image (as Mask)"
    CATEGORY = "mask"
    RETURN_TYPES = ("MASK",)

    @classmethod
    def INPUT_TYPES(cls):
        channels = (["alpha", "red", "green", "blue"],)
        return {"required": {"image": (input_pictures(), {"image_upload": True}), "channel": channels}}

    def load_image(self, image, channel):
        with _opened(image) as file:
            # A picture without alpha becomes opaque, so that its alpha mask is all 0.
            values = _floats(_upright(file).convert("RGBA").getchannel(channel[0].upper()))[None]
        return (1.0 - values if channel == "alpha" else values,)


def _opened(name: str):
    """The picture, open. Raises ValueError that names it when it is none, is broken, or is too large."""
    from ...unclip_core.pictures.opening import opened

    return opened(annotated_path(name), name)


def _upright(frame):
    """The frame turned as its EXIF says, 32-bit grey brought to 8 bit. What a cut-off file lacks is grey."""
    from PIL import ImageFile, ImageOps

    try:
        frame.load()
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
    import torch

    values = _pixels(picture)
    return _to_floats(values, torch.empty(values.shape))


def _pixels(picture):
    """8-bit pixels, (H, W) or (H, W, C)."""
    import numpy as np

    return np.array(picture)


def _to_floats(values, floats):
    """Write 8-bit pixels as 0..1 into a tensor, without a copy in between: a picture may take a gigabyte."""
    import numpy as np

    np.divide(values, 255.0, out=floats.numpy(), dtype=np.float32)
    return floats


def _transparency(picture):
    """1 - alpha (H, W); 64 x 64 zeros when there is no alpha, which is the editor's way of saying "no mask"."""
    import torch

    if "A" in picture.getbands():
        return 1.0 - _floats(picture.getchannel("A"))
    if picture.mode == "P" and "transparency" in picture.info:
        return 1.0 - _floats(picture.convert("RGBA").getchannel("A"))
    return torch.zeros((64, 64))
