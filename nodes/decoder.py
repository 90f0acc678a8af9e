"""Decoder Sample: from an image embedding to a 64 px picture."""

from .host import current_host
from .inputs import (
    guidance_input,
    or_own_guidance,
    or_own_sampler,
    or_own_steps,
    sampler_input,
    seed_input,
    steps_input,
)

SAMPLERS = ("ddpm", "ddim", "dpmpp_2m")


class UnCLIPDecoderSample:
    """64 px pictures of image embeddings, with or without the caption's help."""

    TITLE = "Decoder Sample (unCLIP)"
    DESCRIPTION = (
        "Paints the 64 px picture that an image embedding describes. Link the caption too to let it help with what the "
        "embedding leaves open. With nothing linked it paints freely."
    )
    CATEGORY = "unCLIP"
    FUNCTION = "sample"
    RETURN_TYPES = ("IMAGE",)
    RETURN_NAMES = ("IMAGE 64",)
    OUTPUT_TOOLTIPS = ("64 px pictures; send them to Upsample 256.",)

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "decoder": ("UNCLIP_DECODER", {"tooltip": "DECODER of Load unCLIP."}),
                "steps": steps_input(),
                "guidance_scale": guidance_input("How strictly the picture follows embedding and caption."),
                "eta": (
                    "FLOAT",
                    {
                        "default": 0.0,
                        "min": 0.0,
                        "max": 1.0,
                        "step": 0.05,
                        "tooltip": "Only for the ddim sampler: fresh noise at each step. 0: none, the start noise "
                        "alone decides; above 0: variations.",
                    },
                ),
                "sampler": sampler_input(SAMPLERS),
                "seed": seed_input("picture"),
                "noise_per_item": (
                    "BOOLEAN",
                    {
                        "default": True,
                        "tooltip": "On: every item of a batch has noise of its own. Off: all share the first item's, "
                        "so that only the embeddings make the difference.",
                    },
                ),
            },
            "optional": {
                "embed": ("UNCLIP_EMBED", {"tooltip": "What to paint. Not linked: the model's null embedding."}),
                "text": ("UNCLIP_TEXT", {"tooltip": "The caption. Not linked: no caption."}),
                "noise": (
                    "UNCLIP_NOISE",
                    {"tooltip": "The start noise. Not linked: drawn from the seed."},
                ),
            },
        }

    def sample(
        self,
        *,
        decoder,
        steps,
        guidance_scale,
        eta,
        sampler,
        seed,
        noise_per_item,
        embed=None,
        text=None,
        noise=None,
    ):
        steps_of_sampler = decoder.sample(
            embed,
            text,
            noise=noise,
            steps=or_own_steps(steps),
            guidance_scale=or_own_guidance(guidance_scale),
            eta=eta,
            sampler=or_own_sampler(sampler),
            seed=seed,
            noise_per_item=noise_per_item,
        )
        return (current_host().drive(steps_of_sampler, "Decoder Sample"),)
