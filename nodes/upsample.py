"""Upsample 256 and Upsample 1024: diffusion upsamplers that see the picture alone, no caption."""

from .host import current_host, node_warnings
from .inputs import FAMILY, as_tuned, crop_input, seed_input, steps_input


class _Upsample:
    CATEGORY = "unCLIP/upsampler"
    FUNCTION = "sample"
    RETURN_TYPES = ("IMAGE",)
    RETURN_NAMES = ("IMAGE",)
    SIDE: int  # pixels of what it makes

    @classmethod
    def _inputs(cls, image_tooltip: str) -> dict:
        output = f"UPSAMPLER {cls.SIDE}"  # of the loader, which has two of one type: preflight tells them apart by it
        return {
            "required": {
                "upsampler": ("UNCLIP_UPSAMPLER", {"tooltip": f"{output} of Load unCLIP.", "from_output": output}),
                "image": ("IMAGE", {"tooltip": image_tooltip}),
                "steps": steps_input("slower and invents more detail"),
                "seed": seed_input("fine detail"),
                "crop": crop_input("a picture that is not square"),
            }
        }

    def sample(self, *, upsampler, image, steps, seed, crop):
        name = f"Upsample {self.SIDE}"
        upsampler.check_size(name, self.SIDE)
        with node_warnings() as warn:
            sampling = upsampler.sample_steps(image, **as_tuned(steps=steps), seed=seed, crop=crop, warn=warn)
        return (current_host().drive(sampling, name),)


class UnCLIPUpsample256(_Upsample):
    """64 px to 256 px."""

    SIDE = 256
    TITLE = "Upsample 256"
    SEARCH_ALIASES = (*FAMILY, "upscale", "super resolution", "enlarge", "sharpen")
    DESCRIPTION = "Makes a 64 px picture four times as large by diffusion, inventing the fine detail that fits."
    OUTPUT_TOOLTIPS = ("256 px pictures.",)

    @classmethod
    def INPUT_TYPES(cls):
        return cls._inputs("64 px pictures, from Decoder Sample.")


class UnCLIPUpsample1024(_Upsample):
    """256 px to 1024 px."""

    SIDE = 1024
    TITLE = "Upsample 1024"
    SEARCH_ALIASES = (*FAMILY, "upscale", "super resolution", "enlarge", "sharpen", "hires")
    DESCRIPTION = (
        "Makes a 256 px picture four times as large by diffusion. The slowest step: leave it out while you try things."
    )
    OUTPUT_TOOLTIPS = ("1024 px pictures.",)

    @classmethod
    def INPUT_TYPES(cls):
        return cls._inputs("256 px pictures, from Upsample 256.")
