"""Uses of the editor's own nodes, as prompts. `tests/tools/core_node_references.py` lets a real ComfyUI run them and
keeps what came out; test_core_nodes.py holds ours against that. Imports nothing of this package."""

import hashlib
from pathlib import Path

import numpy as np


def inputs():
    """What the cases start from, by name: float32 arrays, the same on every machine."""
    rng = np.random.default_rng(7)

    def values(*shape):
        return rng.random(shape).astype(np.float32)

    shapes = values(2, 9, 12)
    return {
        "pictures": values(2, 7, 9, 3),
        "others": values(2, 7, 9, 3),
        "one": values(1, 7, 9, 3),
        "wide": values(1, 4, 10, 3),
        "small": values(1, 3, 4, 3),
        "clear": values(1, 7, 9, 4),  # with alpha
        "levels": np.round(values(1, 4, 5, 3) * 2).astype(np.float32) / 2,
        "mask": np.where(shapes > 0.85, shapes, 0).astype(np.float32),
        "flat": values(9, 12),  # a mask without its batch
        "patch": values(1, 4, 5),
        "patches": values(2, 7, 9),
    }


_COUNT = {}


def _case(class_type, **given):
    """`name: (class, inputs)`; an input "~name" is an array of `inputs`."""
    _COUNT[class_type] = _COUNT.get(class_type, 0) + 1
    return {f"{class_type} {_COUNT[class_type]}": (class_type, given)}


_MODES = ("normal", "multiply", "screen", "overlay", "soft_light", "difference")
_OPERATIONS = ("multiply", "add", "subtract", "and", "or", "xor")
_METHODS = ("nearest-exact", "bilinear", "area", "bicubic", "lanczos")

CASES = {}
for _more in (
    _case("SolidMask", value=0.3, width=5, height=3),
    _case("InvertMask", mask="~mask"),
    _case("ThresholdMask", mask="~patches", value=0.4),
    *(_case("GrowMask", mask="~mask", expand=n, tapered_corners=t) for n in (0, 1, 3, -1, -20) for t in (True, False)),
    _case("GrowMask", mask="~flat", expand=-2, tapered_corners=True),
    _case("FeatherMask", mask="~patches", left=3, top=2, right=4, bottom=5),
    _case("FeatherMask", mask="~patches", left=0, top=0, right=3, bottom=0),
    _case("FeatherMask", mask="~flat", left=100, top=100, right=100, bottom=1),
    _case("CropMask", mask="~mask", x=3, y=2, width=4, height=30),
    *(_case("MaskComposite", destination="~mask", source="~patch", x=9, y=2, operation=o) for o in _OPERATIONS),
    _case("MaskComposite", destination="~mask", source="~patches", x=0, y=4, operation="add"),
    _case("MaskToImage", mask="~mask"),
    _case("MaskToImage", mask="~flat"),
    *(_case("ImageToMask", image="~clear", channel=c) for c in ("red", "green", "blue", "alpha")),
    _case("ImageColorToMask", image="~levels", color=0x8000FF),
    _case("ImageColorToMask", image="~levels", color=0x800080),
    _case("ImageCrop", image="~pictures", width=4, height=3, x=2, y=1),
    _case("ImageCrop", image="~pictures", width=4, height=30, x=20, y=20),
    *(_case("ImageFlip", image="~pictures", flip_method=m) for m in ("x-axis: vertically", "y-axis: horizontally")),
    *(
        _case("ImageRotate", image="~pictures", rotation=r)
        for r in ("none", "90 degrees", "180 degrees", "270 degrees")
    ),
    _case("ImageInvert", image="~pictures"),
    _case("ImagePadForOutpaint", image="~pictures", left=8, top=0, right=0, bottom=8, feathering=3),
    _case("ImagePadForOutpaint", image="~pictures", left=0, top=16, right=8, bottom=0, feathering=2),
    _case("ImagePadForOutpaint", image="~pictures", left=8, top=0, right=0, bottom=0, feathering=4),
    _case("ImagePadForOutpaint", image="~pictures", left=0, top=0, right=0, bottom=0, feathering=0),
    *(_case("ImageBlend", image1="~pictures", image2="~others", blend_factor=0.7, blend_mode=m) for m in _MODES),
    _case("ImageBlend", image1="~pictures", image2="~wide", blend_factor=0.3, blend_mode="screen"),
    _case("ImageBlend", image1="~one", image2="~others", blend_factor=1.0, blend_mode="normal"),
    _case("ImageBlend", image1="~one", image2="~clear", blend_factor=0.5, blend_mode="normal"),
    *(
        _case("ImageCompositeMasked", destination="~pictures", source="~small", resize_source=r, x=x, y=y, **mask)
        for mask in ({}, {"mask": "~patch"}, {"mask": "~patches"})
        for r, x, y in ((False, 2, 3), (False, 7, 5), (True, 3, 0), (False, 50, 2))
    ),
    _case("ImageCompositeMasked", destination="~one", source="~others", resize_source=False, x=0, y=0, mask="~patches"),
    _case("EmptyImage", width=3, height=2, batch_size=2, color=0x3380FF),
    _case("GetImageSize", image="~pictures"),
    _case("ImageBatch", image1="~pictures", image2="~others"),
    _case("ImageBatch", image1="~pictures", image2="~wide"),
    _case("ImageBatch", image1="~one", image2="~clear"),
    _case("ImageBatch", image1="~clear", image2="~wide"),
    _case("BatchImagesNode", **{"images.image0": "~one", "images.image1": "~wide", "images.image2": "~pictures"}),
    _case("BatchImagesNode", **{"images.image0": "~one", "images.image1": "~clear"}),
    _case("ImageFromBatch", image="~pictures", batch_index=1, length=1),
    _case("ImageFromBatch", image="~pictures", batch_index=9, length=9),
    _case("RepeatImageBatch", image="~pictures", amount=3),
    *(_case("ImageScale", image="~pictures", upscale_method=m, width=5, height=8, crop="center") for m in _METHODS),
    *(_case("ImageScaleBy", image="~pictures", upscale_method=m, scale_by=1.3) for m in _METHODS),
    _case("ImageScaleBy", image="~pictures", upscale_method="area", scale_by=0.5),
    _case("ImageScaleToTotalPixels", image="~wide", upscale_method="area", megapixels=0.01, resolution_steps=16),
    _case("ImageScaleToMaxDimension", image="~wide", upscale_method="bilinear", largest_size=6),
    _case("ImageScaleToMaxDimension", image="~one", upscale_method="area", largest_size=4),
    *(_case("ImageBlur", image="~pictures", blur_radius=r, sigma=s) for r, s in ((1, 1.0), (3, 0.4), (6, 10.0))),
    _case("ImageBlur", image="~clear", blur_radius=2, sigma=1.0),
    *(
        _case("ImageSharpen", image="~pictures", sharpen_radius=r, sigma=s, alpha=a)
        for r, s, a in ((1, 1.0, 1.0), (3, 0.55, 0.07), (2, 1.0, 0.0))
    ),
    *(
        _case("ImageStitch", image1=a, image2=b, direction=d, match_image_size=m, spacing_width=w, spacing_color=c)
        for a, b, d, m, w, c in (
            ("~pictures", "~one", "right", True, 0, "white"),
            ("~one", "~wide", "right", True, 4, "red"),
            ("~wide", "~pictures", "left", False, 2, "white"),
            ("~one", "~wide", "down", True, 3, "black"),
            ("~one", "~clear", "up", False, 2, "blue"),
            ("~wide", "~one", "down", False, 0, "green"),
        )
    ),
    _case(
        "ImageStitch",
        image1="~one",
        direction="up",
        match_image_size=True,
        spacing_width=0,
        spacing_color="white",
    ),
    *(
        _case("ResizeAndPadImage", image=i, target_width=w, target_height=h, padding_color=c, interpolation=m)
        for i, w, h, c, m in (
            ("~wide", 7, 9, "white", "area"),
            ("~pictures", 12, 6, "black", "bicubic"),
            ("~clear", 8, 8, "white", "bilinear"),
            ("~one", 5, 8, "black", "lanczos"),
        )
    ),
    *(_case("SplitImageWithAlpha", image=image) for image in ("~clear", "~pictures")),
    *(
        _case("JoinImageWithAlpha", image=image, alpha=alpha)
        for image, alpha in (("~pictures", "~patches"), ("~pictures", "~patch"), ("~clear", "~mask"))
    ),
    _case("PrimitiveInt", value=-3),
    _case("PrimitiveFloat", value=2.5),
    _case("PrimitiveBoolean", value=True),
    _case("PrimitiveString", value="a boat"),
    _case("PrimitiveStringMultiline", value="a boat\nat sea"),
    _case("StringConcatenate", string_a="a boat", string_b="at sea", delimiter=" "),
    _case("ComfySwitchNode", switch=True, on_false="~one", on_true="~small"),
    _case("ComfySwitchNode", switch=False, on_false="~one", on_true="~small"),
    _case("CustomCombo", choice="whatever"),
    _case("MaskPreview", mask="~mask"),
    *(
        _case(
            "SaveAnimatedWEBP",
            images=images,
            filename_prefix=f"moving {q}",
            fps=f,
            lossless=lossless,
            quality=q,
            method=m,
        )
        for images, f, lossless, q, m in (
            ("~pictures", 6.0, True, 80, "default"),
            ("~pictures", 7.0, False, 30, "fastest"),
            ("~one", 0.5, True, 100, "slowest"),
        )
    ),
    *(_case("PreviewAny", source=value) for value in ("a boat", 3, 2.5, True, {"a": [1, None]}, "~levels")),
):
    CASES |= _more


def files_of(shown, folder_of):
    """What `read_picture` says of each saved file in what a node showed (None: nothing). Random names are
    blotted out.

    folder_of: the folder of "output" and of "temp" files."""
    read = []
    for entry in (shown or {}).get("images", []):
        read.append(read_picture(Path(folder_of(entry["type"]), entry["subfolder"], entry["filename"])))
        if entry["type"] == "temp":
            entry["filename"] = ""
            del read[-1][1]["sha256"]  # of a preview the pixels count
    return read


def read_picture(path):
    """A file's frames, uint8 (N, H, W, C), and what else it says."""
    from PIL import Image, ImageSequence

    with Image.open(path) as file:
        frames, durations = [], []
        for frame in ImageSequence.Iterator(file):
            frames.append(np.array(frame.convert("RGB")))
            durations.append(frame.info.get("duration"))
        told = {"format": file.format, "durations": durations, "loop": file.info.get("loop")}
    told["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    return np.stack(frames), told


def prompt_of(case):
    """(prompt, its outputs' ids) of a case, whose node has the id "node". A node for each array, and one for each
    output, up to three, that keeps what it gets."""
    class_type, given = CASES[case]
    prompt, linked = {}, {}
    for name, value in given.items():
        if isinstance(value, str) and value.startswith("~"):
            prompt[name] = {"class_type": "UnclipCoreGiven", "inputs": {"name": value[1:]}}
            value = [name, 0]
        linked[name] = value
    return prompt | {"node": {"class_type": class_type, "inputs": linked}}


def keepers(count):
    """Nodes that keep the outputs of "node"."""
    return {
        f"keep{slot}": {"class_type": "UnclipCoreKept", "inputs": {"value": ["node", slot], "slot": slot}}
        for slot in range(count)
    }


class _Any(str):
    """A type that older editors, which compare the names, take for every other."""

    __hash__ = str.__hash__
    __eq__ = str.__eq__

    def __ne__(self, other):
        return False


_ANY = _Any("*")


class UnclipCoreGiven:
    """One of `inputs`, as what it is used for."""

    RETURN_TYPES = (_ANY,)
    FUNCTION = "go"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"name": ("STRING", {})}}

    def go(self, name):
        import torch

        return (torch.from_numpy(inputs()[name]),)


class UnclipCoreKept:
    """Keeps an output in `found`."""

    RETURN_TYPES = ()
    OUTPUT_NODE = True
    FUNCTION = "go"
    found = {}  # noqa: RUF012 - this is what it is for

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"value": (_ANY,), "slot": ("INT", {})}}

    def go(self, value, slot):
        if hasattr(value, "clone"):  # every fifth pixel of what is large, for small files
            value = (value[:, ::5, ::5] if value.numel() > 5000 else value).clone()
        self.found[slot] = value
        return {}


HELPERS = {node.__name__: node for node in (UnclipCoreGiven, UnclipCoreKept)}
