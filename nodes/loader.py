"""Load unCLIP: from a stack's name to the handles of its stages."""

from ..unclip_core.checkpoints import catalog
from ..unclip_core.config import STAGES, to_json
from .files import file_state
from .host import current_host, node_warnings
from .inputs import FAMILY, verdict


class UnCLIPLoader:
    """Handles of every stage of one stack. Weights are read and moved when a sampler first needs them."""

    TITLE = "Load unCLIP"
    SEARCH_ALIASES = (*FAMILY, "checkpoint", "model", "storybook", "text to image")
    DESCRIPTION = (
        "Opens an unCLIP model: CLIP, priors, decoder and upsamplers that belong together. Nothing is loaded into "
        "memory until a stage is used. Models live in models/unclip/<name>/; storybook comes with the pack."
    )
    CATEGORY = "unCLIP"
    FUNCTION = "load"
    RETURN_TYPES = (
        "UNCLIP_CLIP",
        "UNCLIP_PRIOR",
        "UNCLIP_DECODER",
        "UNCLIP_UPSAMPLER",
        "UNCLIP_UPSAMPLER",
        "UNCLIP_AR_PRIOR",
    )
    RETURN_NAMES = ("CLIP", "PRIOR", "DECODER", "UPSAMPLER 256", "UPSAMPLER 1024", "AR PRIOR")
    OUTPUT_TOOLTIPS = (
        "Reads captions and pictures.",
        "Turns a caption into an image embedding, by diffusion.",
        "Paints a picture from an image embedding, at 64 px or at full size.",
        "Sharpens 64 px to 256 px.",
        "Sharpens 256 px to 1024 px.",
        "Turns a caption into an image embedding, one code after another.",
    )

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "model_name": (
                    list(catalog.list_stacks(current_host().model_folders())),
                    {"tooltip": "The model's folder name in models/unclip. storybook comes with the pack."},
                ),
                "dtype": (
                    ["auto", "fp32", "bf16", "fp16", "int8"],
                    {
                        "default": "auto",
                        "tooltip": "Precision of the weights. auto: what suits this processor. fp32: slowest, exact. "
                        "int8: for processors, least memory and least exact.",
                    },
                ),
            },
            "optional": {
                "compile": (
                    "BOOLEAN",
                    {
                        "default": False,
                        "tooltip": "torch.compile: the first step of every stage and size takes a minute or more, the "
                        "others are faster on most GPUs. It needs Triton, on a processor a C++ compiler.",
                    },
                ),
            },
        }

    @classmethod
    def VALIDATE_INPUTS(cls, model_name=None):
        # Not left to the editor's combo check: the catalog knows what is broken, and where it looked.
        return verdict(_find, model_name)

    @classmethod
    def IS_CHANGED(cls, model_name=None, **_):
        # Stages come and go, and are trained anew, while the editor is open: the handles of before would know nothing
        # of it. Only the files that a stage is made of count, not the folder around them.
        if model_name is None:  # linked: what it will be is not known here
            return ""
        try:
            stages = _find(model_name).stages.values()
            return repr([(found.stage, to_json(found.config), *map(file_state, found.all_files)) for found in stages])
        except (ValueError, OSError) as error:
            return str(error)

    def load(self, *, model_name, dtype, compile=None):
        from ..unclip_core.stack import load_stack

        host = current_host()
        entry = _find(model_name)
        with node_warnings() as warn:
            if entry.experimental:
                warn(
                    f"Load unCLIP: {model_name} is experimental: nobody has tried a published file of its prior here; "
                    f"`unclip check {model_name}` says whether it works"
                )
        stack = load_stack(
            entry,
            host.dtype(dtype),
            device=host.device(),
            manager=host.memory_manager(),
            folders=host.model_folders(),
            halves=host.half_precisions(),
            check=lambda: current_host().check_interrupt(),  # asked anew: a later run may be the first to use a stage
            compiled=bool(compile),
        )
        return tuple(getattr(stack, stage) for stage in STAGES)


def _find(name):
    return catalog.find(name, current_host().model_folders())
