"""Random Noise, DDIM Invert, Slerp Noise and Start From Picture: where a decoder starts."""

from .host import current_host, node_warnings
from .inputs import FAMILY, as_tuned, count_input, crop_input, path_inputs, seed_input, size_inputs, steps_input


class _Noise:
    CATEGORY = "unCLIP/start noise"
    RETURN_TYPES = ("UNCLIP_NOISE",)
    RETURN_NAMES = ("NOISE",)


class UnCLIPRandomNoise(_Noise):
    """Start noise from a seed."""

    TITLE = "Random Noise (unCLIP)"
    SEARCH_ALIASES = (*FAMILY, "seed", "start noise", "x_T")
    DESCRIPTION = (
        "Start noise for Decoder Sample, the same as the decoder draws by itself from this seed. Use it to give "
        "several decoders one start, or to mix it with Slerp Noise."
    )
    FUNCTION = "draw"
    OUTPUT_TOOLTIPS = ("Start noise for any decoder: each draws it at its own size.",)

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "seed": seed_input("noise"),
                "count": count_input("How many starts: a batch."),
                "shared": (
                    "BOOLEAN",
                    {"default": False, "tooltip": "On: the whole batch has the first item's noise."},
                ),
            }
        }

    def draw(self, *, seed, count, shared):
        from ..unclip_core.types import RandomNoise

        return (RandomNoise(seed, count, shared),)


class UnCLIPDDIMInvert(_Noise):
    """The start noise from which the decoder paints a given picture again."""

    TITLE = "DDIM Invert"
    SEARCH_ALIASES = (*FAMILY, "inversion", "reconstruct", "image to noise", "x_T")
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
                "image": ("IMAGE", {"tooltip": "Pictures of any size; they are brought to the decoder's size."}),
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
                "crop": crop_input("a picture of another shape"),
            },
            "optional": {
                "embed": (
                    "UNCLIP_EMBED",
                    {"tooltip": "The picture's own embedding, from CLIP Image Encode. Not linked: the null embedding."},
                ),
                "text": ("UNCLIP_TEXT", {"tooltip": "A caption to invert under. Not linked: no caption."}),
                **size_inputs("the model's own size"),
            },
        }

    def invert(
        self, *, decoder, image, steps, guidance_scale, refine, crop, embed=None, text=None, width=None, height=None
    ):
        with node_warnings() as warn:
            inverting = decoder.invert_steps(
                image,
                embed,
                text,
                **as_tuned(steps=steps, width=width, height=height),
                guidance_scale=guidance_scale,
                refine=refine,
                crop=crop,
                warn=warn,
            )
        return (current_host().drive(inverting, "DDIM Invert"),)


class UnCLIPSlerpNoise(_Noise):
    """Start noises on the way from one to another."""

    TITLE = "Slerp Noise"
    SEARCH_ALIASES = (*FAMILY, "interpolate", "blend", "mix", "start noise")
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
                "noise_a": ("UNCLIP_NOISE", {"tooltip": "Where to start: Random Noise or DDIM Invert."}),
                "noise_b": ("UNCLIP_NOISE", {"tooltip": "Where to go; if inverted, in the same steps as noise_a."}),
                **path_inputs("start", "end", 1.0, "of the way from noise_a to noise_b"),
            }
        }

    def mix(self, *, noise_a, noise_b, start, end, frames):
        from ..unclip_core.embeddings import slerp_noises

        with node_warnings() as warn:
            noise = slerp_noises(noise_a, noise_b, start, end, frames, warn=warn)
        return (noise,)


class UnCLIPStartFromPicture(_Noise):
    """A picture to paint over, or to repaint a part of (extensions: the paper has neither)."""

    TITLE = "Start From Picture"
    SEARCH_ALIASES = (*FAMILY, "img2img", "image to image", "inpaint", "mask", "denoise", "strength")
    DESCRIPTION = (
        "Lets Decoder Sample start from a picture instead of pure noise: lower the strength to paint over it, or link "
        "a mask to repaint only where the mask is white."
    )
    FUNCTION = "start"
    OUTPUT_TOOLTIPS = ("Where to start; link it to noise of Decoder Sample.",)

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "image": ("IMAGE", {"tooltip": "The picture, of any size; it is brought to the decoder's size."}),
                "strength": (
                    "FLOAT",
                    {
                        "default": 1.0,
                        "min": 0.01,
                        "max": 1.0,
                        "step": 0.01,
                        "tooltip": "How much noise the picture gets before painting starts. 1: pure noise, for "
                        "repainting with a mask. Lower: the result stays closer to the picture.",
                    },
                ),
                "crop": crop_input("a picture of another shape, and its mask with it,"),
            },
            "optional": {
                "mask": ("MASK", {"tooltip": "1 (white): repaint here. 0 (black): keep the picture."}),
                "noise": (
                    "UNCLIP_NOISE",
                    {"tooltip": "The noise to add. Not linked: noise of Decoder Sample's seed."},
                ),
            },
        }

    def start(self, *, image, strength, crop, mask=None, noise=None):
        from ..unclip_core.types import PictureStart

        return (PictureStart(image, mask, strength, crop, noise),)
