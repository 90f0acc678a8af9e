"""Batches of pictures put together and taken apart, as the editor's own nodes do it."""

from .scaling import scaled


class ImageBatch:
    """Two batches as one. The second takes the first's size, cut at the middle."""

    TITLE = "Batch Images"
    CATEGORY = "image"
    FUNCTION = "batch"
    RETURN_TYPES = ("IMAGE",)
    DEPRECATED = True  # newer editors offer BatchImagesNode in its place

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"image1": ("IMAGE",), "image2": ("IMAGE",)}}

    def batch(self, image1, image2):
        return (one_batch([image1, image2]),)


class BatchImagesNode:
    """Any number of batches as one, in the first's size. The editor's page adds sockets as they are linked."""

    TITLE = "Batch Images"
    CATEGORY = "image"
    FUNCTION = "batch"
    RETURN_TYPES = ("IMAGE",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"images.image0": ("IMAGE",), "images.image1": ("IMAGE",)}}

    def batch(self, **images):
        return (one_batch([images[name] for name in sorted(images, key=_number)]),)


class ImageFromBatch:
    """Some pictures of a batch, one after another; both numbers end at the last picture."""

    TITLE = "ImageFromBatch"
    CATEGORY = "image/batch"
    FUNCTION = "execute"
    RETURN_TYPES = ("IMAGE",)

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "image": ("IMAGE",),
                "batch_index": ("INT", {"default": 0, "min": 0, "max": 4095}),
                "length": ("INT", {"default": 1, "min": 1, "max": 4096}),
            }
        }

    def execute(self, image, batch_index, length):
        first = min(batch_index, len(image) - 1)
        return (image[first : first + length].clone(),)


class RepeatImageBatch:
    """The whole batch several times."""

    TITLE = "RepeatImageBatch"
    CATEGORY = "image/batch"
    FUNCTION = "execute"
    RETURN_TYPES = ("IMAGE",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"image": ("IMAGE",), "amount": ("INT", {"default": 1, "min": 1, "max": 4096})}}

    def execute(self, image, amount):
        return (image.repeat(amount, 1, 1, 1),)


def one_batch(batches: list):
    """Pictures (B, H, W, C) of any sizes in the first one's size; where some have alpha, the others become opaque."""
    import torch

    channels = max(batch.shape[-1] for batch in batches)
    filled = [torch.nn.functional.pad(batch, (0, channels - batch.shape[-1]), value=1.0) for batch in batches]
    height, width = filled[0].shape[1:3]
    same = [
        batch if batch.shape[1:3] == (height, width) else scaled(batch, width, height, "bilinear", True)
        for batch in filled
    ]
    return torch.cat(same)


def _number(name: str) -> int:
    """Of a socket: images.image12 -> 12."""
    return int("".join(filter(str.isdigit, name)) or 0)
