"""CLIP Image Encode: from a picture to what CLIP sees in it."""

CROPS = ("center", "squash")


def crop_input(what: str) -> tuple:
    """How a picture that is not square becomes one."""
    tooltip = f"How {what} becomes square. center: its middle is cut out. squash: it is scaled on both sides."
    return (list(CROPS), {"default": "center", "tooltip": tooltip})


class UnCLIPImageEncode:
    """A picture as a CLIP image embedding."""

    TITLE = "CLIP Image Encode (unCLIP)"
    DESCRIPTION = (
        "Reads a picture with the model's CLIP. The result says what is in the picture, not where each pixel goes: "
        "Decoder Sample paints new pictures of it, and DDIM Invert finds the rest."
    )
    CATEGORY = "unCLIP"
    FUNCTION = "encode"
    RETURN_TYPES = ("UNCLIP_EMBED",)
    RETURN_NAMES = ("EMBED",)
    OUTPUT_TOOLTIPS = ("Image embeddings, one for each picture.",)

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "clip": ("UNCLIP_CLIP", {"tooltip": "CLIP of Load unCLIP; the decoder must be of the same model."}),
                "image": ("IMAGE", {"tooltip": "Pictures of any size, with or without alpha."}),
                "crop": crop_input("a picture that is not square"),
            }
        }

    def encode(self, *, clip, image, crop):
        return (clip.encode_image(image, crop),)
