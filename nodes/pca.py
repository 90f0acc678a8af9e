"""PCA Project: an embedding through its first principal components."""

import re

from .inputs import FAMILY, verdict

_NAME = "PCA Project"


def parse_counts(text: str) -> list[int]:
    """The numbers in "20, 30, 40": separated by commas (also Chinese ones), semicolons or spaces.

    Raises ValueError for an empty text and for what is no whole number from 1 up.
    """
    words = [word for word in re.split(r"[\s,;，、；]+", text) if word]
    if not words:
        raise ValueError(f"{_NAME}: component_counts is empty; give whole numbers, such as 20, 30, 40, 80")
    for word in words:
        if not re.fullmatch(r"[0-9]{1,6}", word) or int(word) < 1:
            raise ValueError(
                f"{_NAME}: component_counts has {word!r}; give whole numbers from 1 up, such as 20, 30, 40, 80"
            )
    return [int(word) for word in words]


class UnCLIPPCAProject:
    """Embeddings of which only the widest directions are left: what CLIP knows first."""

    TITLE = "PCA Project"
    SEARCH_ALIASES = (*FAMILY, "principal components", "reconstruct", "compress", "embedding")
    DESCRIPTION = (
        "Keeps only the first principal components of an embedding and sets the rest to the average picture. Decode "
        "the batch over one noise to see which traits come first and which are details."
    )
    CATEGORY = "unCLIP/embedding"
    FUNCTION = "project"
    RETURN_TYPES = ("UNCLIP_EMBED",)
    RETURN_NAMES = ("EMBED",)
    OUTPUT_TOOLTIPS = ("A batch: for each embedding, one row for every number in component_counts.",)

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "clip": (
                    "UNCLIP_CLIP",
                    {"tooltip": "CLIP of Load unCLIP; it brings the principal components.", "needs": ["pca"]},
                ),
                "embed": ("UNCLIP_EMBED", {"tooltip": "From CLIP Image Encode or a prior of the same model."}),
                "component_counts": (
                    "STRING",
                    {
                        "default": "20, 30, 40, 80",
                        "tooltip": "How many components to keep: one number for each picture, with commas between.",
                    },
                ),
            }
        }

    @classmethod
    def VALIDATE_INPUTS(cls, component_counts=None):
        return verdict(parse_counts, component_counts)

    def project(self, *, clip, embed, component_counts):
        from ..unclip_core.clip.pca import basis_of, project

        return (project(embed, basis_of(clip), parse_counts(component_counts), unit_norm=clip.config.normalised),)
