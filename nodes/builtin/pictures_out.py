"""SaveImage and PreviewImage as the editor has them: same names, same metadata, values truncated to 8 bit."""

import json
import os
import secrets
import string
from pathlib import Path

from ..host import current_host
from .paths import inside, save_place


class SaveImage:
    """Pictures as PNG in the output folder, with the graph inside, so that dropping one on the editor restores it."""

    TITLE = "Save Image"
    CATEGORY = "image"
    FUNCTION = "save_images"
    OUTPUT_NODE = True
    RETURN_TYPES = ()
    FOLDER = "output"
    COMPRESS_LEVEL = 4

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {"images": ("IMAGE",), "filename_prefix": ("STRING", {"default": "ComfyUI"})},
            "hidden": {"prompt": "PROMPT", "extra_pnginfo": "EXTRA_PNGINFO"},
        }

    @classmethod
    def VALIDATE_INPUTS(cls, filename_prefix=""):
        try:
            inside(current_host().folder("output"), filename_prefix)
        except ValueError as error:
            return str(error)
        return True

    def save_images(self, images, filename_prefix="ComfyUI", prompt=None, extra_pnginfo=None):
        root = current_host().folder(self.FOLDER)
        folder, stem, counter = save_place(filename_prefix, root, images[0].shape[1], images[0].shape[0])
        results = []
        for number, image in enumerate(images):
            name = f"{stem.replace('%batch_num%', str(number))}_{counter + number:05}_.png"
            _write_png(folder / name, image, prompt, extra_pnginfo, self.COMPRESS_LEVEL)
            subfolder = folder.relative_to(root.resolve()).as_posix()
            results.append({"filename": name, "subfolder": "" if subfolder == "." else subfolder, "type": self.FOLDER})
        return {"ui": {"images": results}}


class PreviewImage(SaveImage):
    """The same into the temporary folder, under a random name."""

    TITLE = "Preview Image"
    FOLDER = "temp"
    COMPRESS_LEVEL = 1

    def __init__(self):
        self._suffix = "_temp_" + "".join(secrets.choice(string.ascii_lowercase) for _ in range(5))

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"images": ("IMAGE",)}, "hidden": {"prompt": "PROMPT", "extra_pnginfo": "EXTRA_PNGINFO"}}

    def save_images(self, images, prompt=None, extra_pnginfo=None):
        return super().save_images(images, "ComfyUI" + self._suffix, prompt, extra_pnginfo)


def _write_png(path: Path, image, prompt: dict | None, extra_pnginfo: dict | None, compress_level: int) -> None:
    import numpy as np
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    if prompt is not None:
        info.add_text("prompt", json.dumps(prompt))
    for key, value in (extra_pnginfo or {}).items():
        info.add_text(key, json.dumps(value))
    # Truncated, not rounded: the editor does, and the two must write the same file.
    pixels = np.clip(255.0 * image.cpu().numpy(), 0, 255).astype(np.uint8)
    temporary = path.with_name(f".{path.name}.part")
    try:
        Image.fromarray(pixels).save(temporary, format="PNG", pnginfo=info, compress_level=compress_level)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
