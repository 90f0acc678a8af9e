"""Save Embedding and Load Embedding: what CLIP saw, kept in a file."""

from pathlib import Path

from .files import (
    annotated_path,
    content_hash,
    file_entry,
    files_below,
    move_to_free_number,
    saving_place,
    temporary_file,
    validate_prefix,
)
from .host import current_host
from .inputs import FAMILY, verdict

_ENDING = ".safetensors"
_OUTPUT = " [output]"


class UnCLIPSaveEmbedding:
    """Embeddings to a small safetensors file in the output folder."""

    TITLE = "Save Embedding (unCLIP)"
    SEARCH_ALIASES = (*FAMILY, "write", "export", "safetensors")
    DESCRIPTION = (
        "Saves a batch of embeddings, with the name of the CLIP they belong to, in the output folder. Load Embedding "
        "reads it again, in any graph of a model with the same CLIP."
    )
    CATEGORY = "unCLIP/embedding"
    FUNCTION = "save"
    OUTPUT_NODE = True
    RETURN_TYPES = ()
    RETURN_NAMES = ()
    OUTPUT_TOOLTIPS = ()

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "embed": ("UNCLIP_EMBED", {"tooltip": "What to save."}),
                "filename_prefix": (
                    "STRING",
                    {
                        "default": "embeddings/unclip",
                        "tooltip": "The file's name before its number; may hold a sub-folder.",
                    },
                ),
            }
        }

    @classmethod
    def VALIDATE_INPUTS(cls, filename_prefix=None):
        return validate_prefix(filename_prefix)

    def save(self, *, embed, filename_prefix):
        from ..unclip_core.checkpoints.embedding_file import save_embedding

        root = current_host().folder("output")
        folder, stem, counter = saving_place(filename_prefix, root, 0, 0)
        with temporary_file(folder, stem) as temporary:
            save_embedding(temporary, embed)
            path = move_to_free_number(temporary, folder, stem, counter, ending=f"_{_ENDING}")
        shown = file_entry(path, root, "output")
        name = f"{shown['subfolder']}/{shown['filename']}".lstrip("/")
        text = f"{name} ({len(embed)} x {embed.vector.shape[1]}, {embed.clip_id})"
        # Not under "images": the editor would try to draw it.
        return {"ui": {"text": [text], "files": [shown]}}


class UnCLIPLoadEmbedding:
    """Embeddings from a file that Save Embedding wrote."""

    TITLE = "Load Embedding (unCLIP)"
    SEARCH_ALIASES = (*FAMILY, "read", "import", "safetensors")
    DESCRIPTION = (
        "Reads embeddings that Save Embedding wrote, from the input or the output folder. They fit every model with "
        "the same CLIP; another model's prior or decoder refuses them by name."
    )
    CATEGORY = "unCLIP/embedding"
    FUNCTION = "load"
    RETURN_TYPES = ("UNCLIP_EMBED",)
    RETURN_NAMES = ("EMBED",)
    OUTPUT_TOOLTIPS = ("The embeddings of the file.",)

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "embedding": (
                    _files(),
                    {"tooltip": "A .safetensors file in the input folder, or, marked [output], in the output folder."},
                ),
            }
        }

    @classmethod
    def VALIDATE_INPUTS(cls, embedding=None):
        return verdict(_existing, embedding)

    @classmethod
    def IS_CHANGED(cls, embedding=None, **_):
        return content_hash(embedding)

    def load(self, *, embedding):
        from ..unclip_core.checkpoints.embedding_file import load_embedding

        return (load_embedding(_existing(embedding)),)


def _existing(name: str) -> Path:
    path = annotated_path(name)
    if not path.is_file():
        raise ValueError(f"there is no embedding {path}; Save Embedding writes one")
    return path


def _files() -> list[str]:
    """Names as the combo offers them: of the input folder, then of the output folder, sub-folders included."""
    return [
        name + mark
        for kind, mark in (("input", ""), ("output", _OUTPUT))
        for name in files_below(current_host().folder(kind), _ENDING)
    ]
