"""Diffusion Prior: from a caption to an image embedding."""

from ..unclip_core.checks import MAX_CANDIDATES
from ..unclip_core.config import START_STRENGTH
from .host import current_host, node_warnings
from .inputs import FAMILY, as_tuned, count_input, guidance_input, sampler_input, seed_input, steps_input

SAMPLERS = ("ddpm", "ddim", "dpmpp_2m", "unipc", "analytic_ddpm")


class UnCLIPDiffusionPrior:
    """Image embeddings that fit a caption; of several candidates the one closest to the caption is kept."""

    TITLE = "Diffusion Prior (unCLIP)"
    SEARCH_ALIASES = (*FAMILY, "text to image", "caption to embedding", "sampler")
    DESCRIPTION = (
        "Imagines the CLIP embedding of a picture that fits the caption. It draws several candidates and keeps the one "
        "closest to the caption. The decoder then paints it."
    )
    CATEGORY = "unCLIP/prior"
    FUNCTION = "sample"
    RETURN_TYPES = ("UNCLIP_EMBED",)
    RETURN_NAMES = ("EMBED",)
    OUTPUT_TOOLTIPS = ("Image embeddings, `count` for each caption.",)

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "prior": ("UNCLIP_PRIOR", {"tooltip": "PRIOR of Load unCLIP."}),
                "text": ("UNCLIP_TEXT", {"tooltip": "The caption, from CLIP Text Encode.", "needs": ["text"]}),
                "steps": steps_input(),
                "guidance_scale": guidance_input("How strictly the embedding follows the caption."),
                "candidates": (
                    "INT",
                    {
                        "default": 2,
                        "min": 1,
                        "max": MAX_CANDIDATES,
                        "tooltip": "Drawn for each embedding kept: the closest to the caption wins. The paper draws 2.",
                    },
                ),
                "count": count_input("Embeddings made for each caption: a batch of pictures."),
                "sampler": sampler_input(SAMPLERS),
                "seed": seed_input("embedding"),
            },
            "optional": {
                "negative_text": (
                    "UNCLIP_TEXT",
                    {"tooltip": "What guidance (above 1) steers away from. Not linked: no caption."},
                ),
                "start_embed": (
                    "UNCLIP_EMBED",
                    {"tooltip": "An embedding to start from, which the caption then changes. Not linked: noise."},
                ),
                "strength": (
                    "FLOAT",
                    {
                        "default": START_STRENGTH,
                        "min": 0.01,
                        "max": 1.0,
                        "step": 0.01,
                        "tooltip": "How much of start_embed is replaced. 1: all of it, the start has no effect.",
                    },
                ),
            },
        }

    def sample(
        self,
        *,
        prior,
        text,
        steps,
        guidance_scale,
        candidates,
        count,
        sampler,
        seed,
        negative_text=None,
        start_embed=None,
        strength=None,
    ):
        with node_warnings() as warn:
            sampling = prior.sample_steps(
                text,
                **as_tuned(steps=steps, guidance_scale=guidance_scale, sampler=sampler),
                candidates=candidates,
                count=count,
                seed=seed,
                negative_text=negative_text,
                start_embed=start_embed,
                strength=strength,
                warn=warn,
            )
        return (current_host().drive(sampling, "Diffusion Prior"),)
