"""Upsample 256 and Upsample 1024: diffusion upsamplers that see the picture alone, no caption."""

from .host import current_host
from .inputs import or_own_steps, seed_input, steps_input


class _Upsample:
    CATEGORY = "unCLIP"
    FUNCTION = "sample"
    RETURN_TYPES = ("IMAGE",)
    RETURN_NAMES = ("IMAGE",)
    NAME: str

    @staticmethod
    def _inputs(upsampler_output: str, image_tooltip: str) -> dict:
        return {
            "required": {
                "upsampler": ("UNCLIP_UPSAMPLER", {"tooltip": f"{upsampler_output} of Load unCLIP."}),
                "image": ("IMAGE", {"tooltip": image_tooltip}),
                "steps": steps_input(),
                "seed": seed_input("fine detail"),
            }
        }

    def sample(self, *, upsampler, image, steps, seed):
        return (current_host().drive(upsampler.sample_steps(image, steps=or_own_steps(steps), seed=seed), self.NAME),)


class UnCLIPUpsample256(_Upsample):
    """64 px to 256 px."""

    NAME = "Upsample 256"
    TITLE = "Upsample 256 (unCLIP)"
    DESCRIPTION = "Makes a 64 px picture four times as large by diffusion, inventing the fine detail that fits."
    OUTPUT_TOOLTIPS = ("256 px pictures.",)

    @classmethod
    def INPUT_TYPES(cls):
        return cls._inputs("UPSAMPLER 256", "64 px pictures, from Decoder Sample.")


class UnCLIPUpsample1024(_Upsample):
    """256 px to 1024 px."""

    NAME = "Upsample 1024"
    TITLE = "Upsample 1024 (unCLIP)"
    DESCRIPTION = (
        "Makes a 256 px picture four times as large by diffusion. The slowest step: leave it out while you try things."
    )
    OUTPUT_TOOLTIPS = ("1024 px pictures.",)

    @classmethod
    def INPUT_TYPES(cls):
        return cls._inputs("UPSAMPLER 1024", "256 px pictures, from Upsample 256.")
