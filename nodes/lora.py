"""Apply LoRA: what was learned later, put on CLIP, prior and decoder."""

from ..unclip_core.checkpoints import lora_catalog
from .files import file_state
from .host import current_host
from .inputs import FAMILY, NotLinked, verdict


class UnCLIPApplyLoRA:
    """Handles with a LoRA: a subject, a style, a new word."""

    TITLE = "Apply LoRA (unCLIP)"
    SEARCH_ALIASES = (*FAMILY, "lora", "dreambooth", "textual inversion", "fine-tune", "subject", "style", "adapter")
    DESCRIPTION = (
        "Adds what a LoRA file has learned: to the decoder how something looks, to the prior what a caption of it "
        "means, to CLIP the word for it. Link all that the file was trained for; the rest may stay unlinked."
    )
    CATEGORY = "unCLIP"
    FUNCTION = "apply"
    RETURN_TYPES = ("UNCLIP_CLIP", "UNCLIP_PRIOR", "UNCLIP_DECODER")
    RETURN_NAMES = ("CLIP", "PRIOR", "DECODER")
    OUTPUT_TOOLTIPS = (
        "The CLIP, with the file's new words.",
        "The prior, with the LoRA.",
        "The decoder, with the LoRA; link it to DDIM Invert too.",
    )

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "lora_name": (
                    list(lora_catalog.list_loras(_folders())),
                    {"tooltip": "A file in models/loras or models/unclip/loras. Other models' LoRAs are left out."},
                ),
                "strength": (
                    "FLOAT",
                    {
                        "default": 1.0,
                        "min": -10.0,
                        "max": 10.0,
                        "step": 0.05,
                        "tooltip": "How strongly it works. 1: as it was trained. 0: not at all, the new words neither.",
                    },
                ),
            },
            "optional": {
                "clip": (
                    "UNCLIP_CLIP",
                    {"tooltip": "CLIP of Load unCLIP. It learns the file's words, if it has some."},
                ),
                "prior": ("UNCLIP_PRIOR", {"tooltip": "PRIOR of the same Load unCLIP."}),
                "decoder": ("UNCLIP_DECODER", {"tooltip": "DECODER of the same Load unCLIP."}),
            },
        }

    @classmethod
    def VALIDATE_INPUTS(cls, lora_name=None):
        # Not left to the editor's combo check: the catalog knows what is wrong with a file, and where it looked.
        return verdict(_find, lora_name)

    @classmethod
    def IS_CHANGED(cls, lora_name=None, **_):
        # A LoRA is trained anew under its old name while the editor is open.
        if lora_name is None:  # linked: what it will be is not known here
            return ""
        try:
            return file_state(_find(lora_name))
        except (ValueError, OSError) as error:
            return str(error)

    def apply(self, *, lora_name, strength, clip=None, prior=None, decoder=None):
        from ..unclip_core.checkpoints.lora_file import load_lora
        from ..unclip_core.stages.lora import apply_lora

        file = load_lora(_find(lora_name))
        changed = apply_lora(file, strength, clip=clip, prior=prior, decoder=decoder)
        names = ("clip", "prior", "decoder")
        return tuple(
            NotLinked("Apply LoRA", name) if value is None else value
            for name, value in zip(names, changed, strict=True)
        )


def _find(name):
    return lora_catalog.find_lora(name, _folders())


def _folders():
    host = current_host()
    return lora_catalog.search_path(host.lora_folders(), host.model_folders())
