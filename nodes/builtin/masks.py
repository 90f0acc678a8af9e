"""Masks made and changed as the editor's own nodes do it, to the last bit. MASK is (B, H, W)."""

from .scaling import MAX_SIDE


class _MaskNode:
    CATEGORY = "mask"
    FUNCTION = "execute"
    RETURN_TYPES = ("MASK",)


class SolidMask(_MaskNode):
    """A mask (1, height, width) of one value."""

    TITLE = "SolidMask"

    @classmethod
    def INPUT_TYPES(cls):
        side = ("INT", {"default": 512, "min": 1, "max": MAX_SIDE, "step": 1})
        value = ("FLOAT", {"default": 1.0, "min": 0.0, "max": 1.0, "step": 0.01})
        return {"required": {"value": value, "width": side, "height": side}}

    def execute(self, value, width, height):
        import torch

        return (torch.full((1, height, width), value, dtype=torch.float32),)


class InvertMask(_MaskNode):
    """1 - mask."""

    TITLE = "InvertMask"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"mask": ("MASK",)}}

    def execute(self, mask):
        return (1.0 - mask,)


class ThresholdMask(_MaskNode):
    """1 where the mask is above the value, else 0."""

    TITLE = "ThresholdMask"

    @classmethod
    def INPUT_TYPES(cls):
        value = ("FLOAT", {"default": 0.5, "min": 0.0, "max": 1.0, "step": 0.01})
        return {"required": {"mask": ("MASK",), "value": value}}

    def execute(self, mask, value):
        return ((mask > value).float(),)


class GrowMask(_MaskNode):
    """The mask grown by `expand` pixels, or shrunk where that is negative; `tapered_corners` makes round shapes of
    squares: a step then reaches four neighbours, not eight."""

    TITLE = "Grow Mask"

    @classmethod
    def INPUT_TYPES(cls):
        expand = ("INT", {"default": 0, "min": -MAX_SIDE, "max": MAX_SIDE, "step": 1})
        return {"required": {"mask": ("MASK",), "expand": expand, "tapered_corners": ("BOOLEAN", {"default": True})}}

    def execute(self, mask, expand, tapered_corners):
        import torch

        sign = 1.0 if expand > 0 else -1.0  # the smallest neighbour is the largest of the negatives
        grown = sign * _batch(mask)
        for _ in range(abs(expand)):
            before = grown
            grown = _largest_neighbour(before, tapered_corners)
            if torch.equal(grown, before):  # further steps change nothing
                break
        return (sign * grown,)


def _largest_neighbour(values, cross: bool):
    """The largest of each pixel and its eight neighbours, or of its four if `cross`."""
    import torch

    if not cross:
        return torch.nn.functional.max_pool2d(values, 3, 1, 1)
    beside = torch.nn.functional.max_pool2d(values, (1, 3), 1, (0, 1))
    return torch.maximum(beside, torch.nn.functional.max_pool2d(values, (3, 1), 1, (1, 0)))


class FeatherMask(_MaskNode):
    """The mask faded out towards its borders, over that many pixels at each."""

    TITLE = "FeatherMask"

    @classmethod
    def INPUT_TYPES(cls):
        width = ("INT", {"default": 0, "min": 0, "max": MAX_SIDE, "step": 1})
        return {"required": {"mask": ("MASK",), "left": width, "top": width, "right": width, "bottom": width}}

    def execute(self, mask, left, top, right, bottom):
        import torch

        faded = _batch(mask).clone()
        for dim, near, far in ((2, left, right), (1, top, bottom)):
            size = faded.shape[dim]
            for width, from_far_end in ((min(near, size), False), (min(far, size), True)):
                places = torch.arange(width)
                rates = ((places + 1).double() / max(1, width)).float()
                # From the far end the editor counts 0, -1, -2 ..: its first step falls on the near border. Kept, since
                # a graph must give the same here and there.
                places = -places % size if from_far_end else places
                shape = (-1, 1) if dim == 1 else (-1,)
                faded.index_copy_(dim, places, faded.index_select(dim, places) * rates.view(shape))
        return (faded,)


class CropMask(_MaskNode):
    """The part of a mask from (x, y) on; what would lie outside is left out."""

    TITLE = "CropMask"

    @classmethod
    def INPUT_TYPES(cls):
        place = ("INT", {"default": 0, "min": 0, "max": MAX_SIDE, "step": 1})
        side = ("INT", {"default": 512, "min": 1, "max": MAX_SIDE, "step": 1})
        return {"required": {"mask": ("MASK",), "x": place, "y": place, "width": side, "height": side}}

    def execute(self, mask, x, y, width, height):
        for name, place, size in (("x", x, mask.shape[-1]), ("y", y, mask.shape[-2])):
            if place >= size:  # the editor goes on with an empty mask, which fails further on
                raise ValueError(
                    f"{name}={place} lies outside of the mask, which has {size} pixels; take a smaller one"
                )
        return (_batch(mask)[:, y : y + height, x : x + width],)


class MaskComposite(_MaskNode):
    """`source` laid on `destination` with its corner at (x, y), by an operation; and, or, xor round to 0 or 1 first."""

    TITLE = "MaskComposite"
    OPERATIONS = ("multiply", "add", "subtract", "and", "or", "xor")

    @classmethod
    def INPUT_TYPES(cls):
        place = ("INT", {"default": 0, "min": 0, "max": MAX_SIDE, "step": 1})
        masks = {"destination": ("MASK",), "source": ("MASK",)}
        return {"required": {**masks, "x": place, "y": place, "operation": (list(cls.OPERATIONS),)}}

    def execute(self, destination, source, x, y, operation):
        result, source = _batch(destination).clone(), _batch(source)
        if len(source) not in (1, len(result)):
            raise ValueError(
                f"source has {len(source)} masks and destination {len(result)}; give one source, or as many as those"
            )
        below = result[:, y : y + source.shape[1], x : x + source.shape[2]]  # a view: what changes it changes `result`
        above = source[:, : below.shape[1], : below.shape[2]]
        if operation == "multiply":
            combined = below * above
        elif operation == "add":
            combined = below + above
        elif operation == "subtract":
            combined = below - above
        else:
            first, second = below.round().bool(), above.round().bool()
            combined = {"and": first & second, "or": first | second, "xor": first ^ second}[operation].float()
        below.copy_(combined)
        return (result.clamp(0.0, 1.0),)


def _batch(mask):
    """A mask of any shape (..., H, W) as (B, H, W)."""
    return mask.reshape(-1, *mask.shape[-2:])
