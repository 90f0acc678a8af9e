"""Autoregressive Prior: from a caption to an image embedding, one code after another."""

from ..unclip_core.checks import MAX_CANDIDATES
from .host import current_host, node_warnings
from .inputs import AS_TUNED, FAMILY, as_tuned, count_input, guidance_input, seed_input


class UnCLIPAutoregressivePrior:
    """Image embeddings that fit a caption, sampled as a sequence of quantised principal components."""

    TITLE = "Autoregressive Prior"
    SEARCH_ALIASES = (*FAMILY, "text to image", "transformer", "codes", "sampler")
    DESCRIPTION = (
        "Imagines the CLIP embedding of a picture that fits the caption, as a language model would: code after code, "
        "the most telling first. An alternative to the Diffusion Prior; the decoder paints either."
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
                "ar_prior": ("UNCLIP_AR_PRIOR", {"tooltip": "AR PRIOR of Load unCLIP."}),
                "text": ("UNCLIP_TEXT", {"tooltip": "The caption, from CLIP Text Encode.", "needs": ["text"]}),
                "guidance_scale": guidance_input("How strictly the embedding follows the caption."),
                "temperature": (
                    "FLOAT",
                    {
                        "default": AS_TUNED["temperature"],
                        "min": -1.0,
                        "max": 10.0,
                        "step": 0.05,
                        "tooltip": "How freely codes are drawn. 1: as learned. 0: always the likeliest. -1: the "
                        "model's own value.",
                    },
                ),
                "dot_percentile": (
                    "FLOAT",
                    {
                        "default": AS_TUNED["dot_percentile"],
                        "min": -1.0,
                        "max": 99.9,
                        "step": 0.1,
                        "tooltip": "How well picture and caption agree is drawn above this percentile. 50: the upper "
                        "half, as in the paper. -1: the model's own value.",
                    },
                ),
                "candidates": (
                    "INT",
                    {
                        "default": 1,
                        "min": 1,
                        "max": MAX_CANDIDATES,
                        "tooltip": "Drawn for each embedding kept: the closest to the caption wins.",
                    },
                ),
                "count": count_input("Embeddings made for each caption: a batch of pictures."),
                "seed": seed_input("embedding"),
            },
            "optional": {
                "negative_text": (
                    "UNCLIP_TEXT",
                    {"tooltip": "What guidance (above 1) steers away from. Not linked: no caption."},
                ),
            },
        }

    def sample(
        self,
        *,
        ar_prior,
        text,
        guidance_scale,
        temperature,
        dot_percentile,
        candidates,
        count,
        seed,
        negative_text=None,
    ):
        with node_warnings() as warn:
            sampling = ar_prior.sample_steps(
                text,
                **as_tuned(guidance_scale=guidance_scale, temperature=temperature, dot_percentile=dot_percentile),
                candidates=candidates,
                count=count,
                seed=seed,
                negative_text=negative_text,
                warn=warn,
            )
        return (current_host().drive(sampling, "Autoregressive Prior"),)
