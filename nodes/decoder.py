"""Decoder Sample: from an image embedding to a 64 px picture."""

from .host import current_host
from .image import crop_input
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


def _extension_inputs() -> dict:
    """What came later: image to image, inpainting and guidance by CLIP (none the paper's), several of each item."""
    return {
        "image": (
            "IMAGE",
            {"tooltip": "A picture to start from (lower strength) or to repaint a part of (link a mask)."},
        ),
        "mask": ("MASK", {"tooltip": "1 (white): repaint here. 0 (black): keep the image."}),
        "clip": ("UNCLIP_CLIP", {"tooltip": "CLIP of Load unCLIP, only for clip_scale above 0."}),
        "strength": (
            "FLOAT",
            {
                "default": 1.0,
                "min": 0.01,
                "max": 1.0,
                "step": 0.01,
                "tooltip": "How much noise the image gets before painting starts. 1: pure noise. Lower: the "
                "result stays closer to the image.",
            },
        ),
        "clip_scale": (
            "FLOAT",
            {
                "default": 0.0,
                "min": 0.0,
                "max": 20.0,
                "step": 0.1,
                "tooltip": "How strongly each step is pulled toward what CLIP takes for the text, or for the "
                "embed without a text. 0: not at all; 1: gently.",
            },
        ),
        "crop": crop_input("an image that is not square, and its mask with it,"),
        "count": (
            "INT",
            {
                "default": 1,
                "min": 1,
                "max": 4096,
                "tooltip": "Pictures of each embedding, caption or image, each with noise of its own.",
            },
        ),
    }


class UnCLIPDecoderSample:
    """64 px pictures of image embeddings, with or without the caption's help."""

    TITLE = "Decoder Sample (unCLIP)"
    DESCRIPTION = (
        "Paints the 64 px picture that an image embedding describes. Link the caption too to let it help with what the "
        "embedding leaves open. With nothing linked it paints freely. With an image it paints over it, with a mask "
        "only where the mask is white."
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
                **_extension_inputs(),
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
        image=None,
        mask=None,
        clip=None,
        strength=None,
        clip_scale=None,
        crop=None,
        count=None,
    ):
        warnings = []
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
            image=image,
            mask=mask,
            strength=strength,
            crop=crop,
            count=1 if count is None else count,
            clip=clip,
            clip_scale=clip_scale,
            warn=warnings.append,
        )
        current_host().warn(*warnings)
        return (current_host().drive(steps_of_sampler, "Decoder Sample"),)
