"""CLIP Image Encode: from a picture to what CLIP sees in it."""

from .inputs import FAMILY, crop_input


class UnCLIPImageEncode:
    """A picture as a CLIP image embedding."""

    TITLE = "CLIP Image Encode (unCLIP)"
    SEARCH_ALIASES = (*FAMILY, "clip vision", "variation", "image to embedding")
    DESCRIPTION = (
        "Reads a picture with the model's CLIP. The result says what is in the picture, not where each pixel goes: "
        "Decoder Sample paints new pictures of it, and DDIM Invert finds the rest."
    )
    CATEGORY = "unCLIP/encode"
    FUNCTION = "encode"
    RETURN_TYPES = ("UNCLIP_EMBED",)
    RETURN_NAMES = ("EMBED",)
    OUTPUT_TOOLTIPS = ("Image embeddings, one for each picture.",)

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "clip": (
                    "UNCLIP_CLIP",
                    {"tooltip": "CLIP of Load unCLIP; the decoder must be of the same model.", "needs": ["image"]},
                ),
                "image": ("IMAGE", {"tooltip": "Pictures of any size, with or without alpha."}),
                "crop": crop_input("a picture that is not square"),
            }
        }

    def encode(self, *, clip, image, crop):
        return (clip.encode_image(image, crop),)
