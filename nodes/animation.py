"""Save Animation: a batch of frames as a looping picture."""

from .files import (
    file_entry,
    graph_metadata,
    move_to_free_number,
    saving_place,
    temporary_file,
    validate_prefix,
)
from .host import current_host
from .inputs import FAMILY

FORMATS = {"webp": "WEBP", "gif": "GIF"}
# EXIF tags in which the editor's own savers put the graph; the page's texts stand in the tags from _FIRST_TEXT down.
_PROMPT, _FIRST_TEXT = 0x0110, 0x010F


class UnCLIPSaveAnimation:
    """Frames to a looping WebP or GIF in the output folder."""

    TITLE = "Save Animation (unCLIP)"
    SEARCH_ALIASES = (*FAMILY, "gif", "webp", "video", "film", "loop", "interpolation")
    DESCRIPTION = (
        "Saves a batch of pictures, such as the frames of an interpolation, as a looping animation in the output "
        "folder and shows it on the node. A WebP carries the graph: drop it on the editor to get it back."
    )
    CATEGORY = "unCLIP/picture"
    FUNCTION = "save"
    OUTPUT_NODE = True
    RETURN_TYPES = ()
    RETURN_NAMES = ()
    OUTPUT_TOOLTIPS = ()

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "images": ("IMAGE", {"tooltip": "The frames, in order."}),
                "filename_prefix": (
                    "STRING",
                    {"default": "unclip", "tooltip": "The file's name before its number; may hold a sub-folder."},
                ),
                "fps": (
                    "FLOAT",
                    {"default": 8.0, "min": 0.1, "max": 60.0, "step": 0.5, "tooltip": "Frames a second."},
                ),
                "format": (
                    list(FORMATS),
                    {
                        "default": "webp",
                        "tooltip": "webp: small, in full colour, with the graph inside. gif: shown everywhere, 256 "
                        "colours, without the graph.",
                    },
                ),
                "back_and_forth": (
                    "BOOLEAN",
                    {
                        "default": True,
                        "tooltip": "Play the frames forwards, then backwards, so that the loop is smooth.",
                    },
                ),
            },
            "hidden": {"prompt": "PROMPT", "extra_pnginfo": "EXTRA_PNGINFO"},
        }

    @classmethod
    def VALIDATE_INPUTS(cls, filename_prefix=None):
        return validate_prefix(filename_prefix)

    def save(self, *, images, filename_prefix, fps, format, back_and_forth, prompt=None, extra_pnginfo=None):
        from PIL import Image

        root = current_host().folder("output")
        folder, stem, counter = saving_place(filename_prefix, root, images.shape[2], images.shape[1])
        pixels = (images[..., :3].clamp(0, 1) * 255).round().byte().cpu().numpy()
        frames = [Image.fromarray(frame) for frame in pixels]
        forwards = len(frames)
        if back_and_forth:
            frames += frames[-2:0:-1]
        with temporary_file(folder, stem) as temporary:
            # Pillow would merge equal frames of a GIF, and a still would lose its length: disposal keeps them apart.
            options = {"disposal": 2, "optimize": False}
            if format == "webp":
                texts = graph_metadata(prompt, extra_pnginfo)
                options = {"quality": 90, "method": 4} | ({"exif": graph_exif(texts)} if texts else {})
            frames[0].save(
                temporary,
                format=FORMATS[format],
                save_all=True,
                append_images=frames[1:],
                duration=round(1000 / fps),
                loop=0,
                **options,
            )
            path = move_to_free_number(temporary, folder, stem, counter, ending=f"_.{format}")
        shown = file_entry(path, root, "output")
        return {"ui": {"images": [shown], "animated": [True], "frames": [forwards]}}


def graph_exif(texts: dict[str, str]):
    """A graph's texts by name (`graph_metadata`) as the editor looks for them in a WebP; in a GIF it looks for none."""
    from PIL import Image

    exif, free = Image.Exif(), _FIRST_TEXT
    for name, text in texts.items():
        if name == "prompt":
            exif[_PROMPT] = f"{name}:{text}"
        else:
            exif[free] = f"{name}:{text}"
            free -= 1
    return exif
