"""Guidance Interval and Step Cache: faster sampling at a price that each help page states; off unless linked in."""

from .inputs import FAMILY, NotLinked


class UnCLIPGuidanceInterval:
    """A decoder that is guided at some noise levels alone (Kynkäänniemi et al. 2024)."""

    TITLE = "Guidance Interval"
    SEARCH_ALIASES = (*FAMILY, "cfg", "limited interval", "guidance start end", "faster", "speed")
    DESCRIPTION = (
        "Guidance works between two points of the way from noise to picture alone. Each step outside them takes half "
        "the time, because the decoder need not be asked twice. Early steps without guidance also leave more variety."
    )
    CATEGORY = "unCLIP/decoder"
    FUNCTION = "limit"
    RETURN_TYPES = ("UNCLIP_DECODER",)
    RETURN_NAMES = ("DECODER",)
    OUTPUT_TOOLTIPS = ("The decoder, guided within the interval; link it to Decoder Sample.",)

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "decoder": ("UNCLIP_DECODER", {"tooltip": "DECODER of Load unCLIP."}),
                "start": (
                    "FLOAT",
                    {
                        "default": 0.0,
                        "min": 0.0,
                        "max": 1.0,
                        "step": 0.01,
                        "tooltip": "Where guidance begins, as a share of the schedule. 0: at pure noise.",
                    },
                ),
                "end": (
                    "FLOAT",
                    {
                        "default": 0.7,
                        "min": 0.0,
                        "max": 1.0,
                        "step": 0.01,
                        "tooltip": "Where it ends. 1: at the finished picture; 0 to 1 is guidance everywhere.",
                    },
                ),
            }
        }

    def limit(self, *, decoder, start, end):
        return (decoder.with_guidance_interval(start, end),)


class UnCLIPStepCache:
    """Stages that compute the deep part of their network at some steps alone (DeepCache, Ma et al. 2023)."""

    TITLE = "Step Cache"
    SEARCH_ALIASES = (*FAMILY, "deepcache", "deep cache", "feature reuse", "faster", "speed")
    DESCRIPTION = (
        "From one step to the next the deep part of the network changes little, so it is computed at every second or "
        "third step alone and reused in between. For the decoder, and for upsamplers that make many steps."
    )
    CATEGORY = "unCLIP/decoder"
    FUNCTION = "reuse"
    RETURN_TYPES = ("UNCLIP_DECODER", "UNCLIP_UPSAMPLER")
    RETURN_NAMES = ("DECODER", "UPSAMPLER")
    OUTPUT_TOOLTIPS = (
        "The decoder with the cache; link it to Decoder Sample, not to DDIM Invert, which runs every step whole.",
        "The upsampler with the cache; link it to Upsample 256 or Upsample 1024, whichever it came from.",
    )

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "interval": (
                    "INT",
                    {
                        "default": 2,
                        "min": 1,
                        "max": 100,
                        "tooltip": "Every how many steps the whole network runs. 1: at each, the cache is off.",
                    },
                ),
                "depth": (
                    "INT",
                    {
                        "default": 2,
                        "min": 1,
                        "max": 100,
                        "tooltip": "How many outer blocks of the network run at every step, on the way in and on the "
                        "way out. More is slower and closer to the full picture.",
                    },
                ),
            },
            "optional": {
                "decoder": ("UNCLIP_DECODER", {"tooltip": "DECODER of Load unCLIP."}),
                "upsampler": ("UNCLIP_UPSAMPLER", {"tooltip": "UPSAMPLER 256 or UPSAMPLER 1024 of Load unCLIP."}),
            },
        }

    def reuse(self, *, interval, depth, decoder=None, upsampler=None):
        given = {"decoder": decoder, "upsampler": upsampler}
        if decoder is None and upsampler is None:
            raise ValueError("Step Cache: nothing is linked; link Load unCLIP's DECODER or one of its upsamplers")
        return tuple(
            NotLinked("Step Cache", name) if stage is None else stage.with_step_cache(interval, depth)
            for name, stage in given.items()
        )
