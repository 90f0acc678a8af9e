"""Decoder Sample and what changes how it works: from an image embedding to a picture."""

from .host import current_host, node_warnings
from .inputs import (
    FAMILY,
    as_tuned,
    count_input,
    crop_input,
    guidance_input,
    sampler_input,
    seed_input,
    size_inputs,
    steps_input,
)

SAMPLERS = ("ddpm", "ddim", "dpmpp_2m", "unipc")


class UnCLIPDecoderSample:
    """Pictures of image embeddings, with or without the caption's help."""

    TITLE = "Decoder Sample"
    SEARCH_ALIASES = (*FAMILY, "sampler", "text to image", "variation", "ddim", "img2img", "inpaint")
    DESCRIPTION = (
        "Paints the picture that an image embedding describes: at 64 px, for the upsamplers, or at full size where the "
        "model can. Link the caption too to let it help with what the embedding leaves open. It starts from noise that "
        "the seed decides, or from what is linked to `noise`."
    )
    CATEGORY = "unCLIP/decoder"
    FUNCTION = "sample"
    RETURN_TYPES = ("IMAGE",)
    RETURN_NAMES = ("IMAGE",)
    OUTPUT_TOOLTIPS = ("The pictures; Upsample 256 enlarges those of 64 px, and passes full-size ones through.",)

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
                **size_inputs("the model's own size, or that of a linked noise"),
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
        width=None,
        height=None,
    ):
        with node_warnings() as warn:
            sampling = decoder.sample_steps(
                embed,
                text,
                negative_embed=negative_embed,
                negative_text=negative_text,
                noise=noise,
                **as_tuned(steps=steps, guidance_scale=guidance_scale, sampler=sampler, width=width, height=height),
                eta=eta,
                seed=seed,
                noise_per_item=noise_per_item,
                count=count,
                warn=warn,
            )
        return (current_host().drive(sampling, "Decoder Sample"),)


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


class UnCLIPDepthHint:
    """A decoder that follows a depth picture: what is near and what is far, wherever it lies."""

    TITLE = "Depth Hint"
    SEARCH_ALIASES = (*FAMILY, "controlnet", "control", "depth", "structure")
    DESCRIPTION = (
        "Gives a controlnet decoder the depth picture that it follows: near things bright, far ones dark. The "
        "embedding says what is painted, the hint where it lies."
    )
    CATEGORY = "unCLIP/decoder"
    FUNCTION = "follow"
    RETURN_TYPES = ("UNCLIP_DECODER",)
    RETURN_NAMES = ("DECODER",)
    OUTPUT_TOOLTIPS = ("The decoder with its hint; link it to Decoder Sample.",)

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "decoder": (
                    "UNCLIP_DECODER",
                    {
                        "tooltip": "DECODER of Load unCLIP, of a model such as kandinsky-2-2-controlnet-depth.",
                        "needs": ["hint"],
                    },
                ),
                "hint": ("IMAGE", {"tooltip": "The depth picture, of any size; from a depth estimator, or drawn."}),
                "crop": crop_input("a hint of another shape"),
            }
        }

    def follow(self, *, decoder, hint, crop):
        return (decoder.with_depth_hint(hint, crop),)
