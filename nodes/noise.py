"""Random Noise, DDIM Invert and Slerp Noise: where a decoder starts."""

from .embedding import path_inputs
from .host import current_host
from .image import crop_input
from .inputs import or_own_steps, seed_input, steps_input


class _Noise:
    CATEGORY = "unCLIP"
    RETURN_TYPES = ("UNCLIP_NOISE",)
    RETURN_NAMES = ("NOISE",)


class UnCLIPRandomNoise(_Noise):
    """Start noise from a seed."""

    TITLE = "Random Noise (unCLIP)"
    DESCRIPTION = (
        "Draws start noise for Decoder Sample, the same as the decoder draws by itself from this seed. Use it to give "
        "several decoders one start, or to mix it with Slerp Noise."
    )
    FUNCTION = "draw"
    OUTPUT_TOOLTIPS = ("Start noise for 64 px pictures.",)

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "seed": seed_input("noise"),
                "count": ("INT", {"default": 1, "min": 1, "max": 4096, "tooltip": "How many starts: a batch."}),
                "shared": (
                    "BOOLEAN",
                    {"default": False, "tooltip": "On: the whole batch has the first item's noise."},
                ),
            }
        }

    def draw(self, *, seed, count, shared):
        from ..unclip_core.embedding import random_noise

        return (random_noise(seed, count, shared),)


class UnCLIPDDIMInvert(_Noise):
    """The start noise from which the decoder paints a given picture again."""

    TITLE = "DDIM Invert (unCLIP)"
    DESCRIPTION = (
        "Finds the start noise from which Decoder Sample (ddim, eta 0, the same steps and guidance) paints this "
        "picture again. With the picture's embedding it holds all that CLIP does not see: change one, keep the other."
    )
    FUNCTION = "invert"
    OUTPUT_TOOLTIPS = ("The picture's own start noise; decode it in the same number of steps.",)

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "decoder": ("UNCLIP_DECODER", {"tooltip": "DECODER of Load unCLIP: the one that will paint."}),
                "image": ("IMAGE", {"tooltip": "Pictures of any size; they are brought to 64 px."}),
                "steps": steps_input(),
                "guidance_scale": (
                    "FLOAT",
                    {
                        "default": 1.0,
                        "min": 0.0,
                        "max": 30.0,
                        "step": 0.05,
                        "tooltip": "Guidance to invert under; Decoder Sample must use the same. 1: none, which "
                        "reconstructs best and is twice as fast. 0: embed and text count for nothing.",
                    },
                ),
                "refine": (
                    "INT",
                    {
                        "default": 3,
                        "min": 0,
                        "max": 100,
                        "tooltip": "Refinements of each step, at most. 0: plain DDIM inversion, the fastest; more "
                        "reconstruct more exactly.",
                    },
                ),
                "crop": crop_input("a picture that is not square"),
            },
            "optional": {
                "embed": (
                    "UNCLIP_EMBED",
                    {"tooltip": "The picture's own embedding, from CLIP Image Encode. Not linked: the null embedding."},
                ),
                "text": ("UNCLIP_TEXT", {"tooltip": "A caption to invert under. Not linked: no caption."}),
            },
        }

    def invert(self, *, decoder, image, steps, guidance_scale, refine, crop, embed=None, text=None):
        steps_of_inversion = decoder.invert(
            image,
            embed,
            text,
            steps=or_own_steps(steps),
            guidance_scale=guidance_scale,
            refine=refine,
            crop=crop,
        )
        return (current_host().drive(steps_of_inversion, "DDIM Invert"),)


class UnCLIPSlerpNoise(_Noise):
    """Start noises on the way from one to another."""

    TITLE = "Slerp Noise (unCLIP)"
    DESCRIPTION = (
        "Goes from one start noise to another along the sphere that noise lives on, in even steps. With two inverted "
        "pictures and Slerp on their embeddings, the ends paint the pictures themselves."
    )
    FUNCTION = "mix"
    OUTPUT_TOOLTIPS = ("A batch: the frames from noise_a to noise_b.",)

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "noise_a": ("UNCLIP_NOISE", {"tooltip": "Where to start."}),
                "noise_b": ("UNCLIP_NOISE", {"tooltip": "Where to go; if inverted, in the same steps as noise_a."}),
                **path_inputs("start", "end", 1.0, "of the way from noise_a to noise_b"),
            }
        }

    def mix(self, *, noise_a, noise_b, start, end, frames):
        from ..unclip_core.embedding import slerp_noises

        warnings = []
        noise = slerp_noises(noise_a, noise_b, start, end, frames, warn=warnings.append)
        current_host().warn(*warnings)
        return (noise,)
