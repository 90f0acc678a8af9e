"""Decoder Sample and what changes how it works: from an image embedding to a picture."""

from .host import current_host
from .inputs import FAMILY, as_tuned, count_input, guidance_input, sampler_input, seed_input, steps_input

SAMPLERS = ("ddpm", "ddim", "dpmpp_2m", "unipc")


class UnCLIPDecoderSample:
    """64 px pictures of image embeddings, with or without the caption's help."""

    TITLE = "Decoder Sample"
    SEARCH_ALIASES = (*FAMILY, "sampler", "text to image", "variation", "ddim", "img2img", "inpaint")
    DESCRIPTION = (
        "Paints the 64 px picture that an image embedding describes. Link the caption too to let it help with what the "
        "embedding leaves open. It starts from noise that the seed decides, or from what is linked to `noise`."
    )
    CATEGORY = "unCLIP/decoder"
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
                "count": count_input("Pictures of each embedding, caption or start, each with noise of its own."),
            },
            "optional": {
                "embed": ("UNCLIP_EMBED", {"tooltip": "What to paint. Not linked: the model's null embedding."}),
                "text": ("UNCLIP_TEXT", {"tooltip": "The caption. Not linked: no caption."}),
                "noise": (
                    "UNCLIP_NOISE",
                    {
                        "tooltip": "Where to start: Random Noise, DDIM Invert, Slerp Noise or Start From Picture. Not "
                        "linked: noise of the seed."
                    },
                ),
                "negative_embed": (
                    "UNCLIP_EMBED",
                    {"tooltip": "What guidance leads away from. Not linked: the model's null embedding."},
                ),
                "negative_text": (
                    "UNCLIP_TEXT",
                    {"tooltip": "The caption that guidance leads away from. Not linked: no caption."},
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
        count,
        embed=None,
        text=None,
        noise=None,
        negative_embed=None,
        negative_text=None,
    ):
        warnings = []
        steps_of_sampler = decoder.sample_steps(
            embed,
            text,
            negative_embed=negative_embed,
            negative_text=negative_text,
            noise=noise,
            **as_tuned(steps=steps, guidance_scale=guidance_scale, sampler=sampler),
            eta=eta,
            seed=seed,
            noise_per_item=noise_per_item,
            count=count,
            warn=warnings.append,
        )
        current_host().warn(*warnings)
        return (current_host().drive(steps_of_sampler, "Decoder Sample"),)


class UnCLIPCLIPGuidance:
    """A decoder that CLIP steers at every step (an extension after GLIDE; the paper's model has none)."""

    TITLE = "CLIP Guidance"
    SEARCH_ALIASES = (*FAMILY, "clip guided", "glide", "steer")
    DESCRIPTION = (
        "At every step CLIP compares the picture with Decoder Sample's text, or with its embed if no text is linked, "
        "and pulls it closer. Each step then takes a pass of CLIP more."
    )
    CATEGORY = "unCLIP/decoder"
    FUNCTION = "guide"
    RETURN_TYPES = ("UNCLIP_DECODER",)
    RETURN_NAMES = ("DECODER",)
    OUTPUT_TOOLTIPS = ("The decoder, guided; link it to Decoder Sample.",)

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "decoder": ("UNCLIP_DECODER", {"tooltip": "DECODER of Load unCLIP."}),
                "clip": ("UNCLIP_CLIP", {"tooltip": "CLIP of the same Load unCLIP.", "needs": ["image"]}),
                "scale": (
                    "FLOAT",
                    {
                        "default": 1.0,
                        "min": 0.0,
                        "max": 20.0,
                        "step": 0.1,
                        "tooltip": "How strongly each step is pulled. 0: not at all; 1: gently.",
                    },
                ),
            }
        }

    def guide(self, *, decoder, clip, scale):
        return (decoder.with_clip_guidance(clip, scale),)
