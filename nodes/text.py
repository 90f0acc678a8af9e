"""CLIP Text Encode: from a caption to what the prior and the decoder read."""

from .host import current_host

_NAME = "CLIP Text Encode"


class UnCLIPTextEncode:
    """A caption as CLIP's token states and text embedding."""

    TITLE = "CLIP Text Encode (unCLIP)"
    DESCRIPTION = (
        "Reads a caption with the model's CLIP. The result drives the Diffusion Prior and, if you like, the decoder. "
        "Warns about words that the model does not know and about what it had to cut off."
    )
    CATEGORY = "unCLIP"
    FUNCTION = "encode"
    RETURN_TYPES = ("UNCLIP_TEXT",)
    RETURN_NAMES = ("TEXT",)
    OUTPUT_TOOLTIPS = ("The encoded caption.",)

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "clip": (
                    "UNCLIP_CLIP",
                    {"tooltip": "CLIP of Load unCLIP; prior and decoder must be of the same model."},
                ),
                # No dynamicPrompts: the editor would pick {a|b} at random and cut off //; a headless run would differ.
                "text": (
                    "STRING",
                    {
                        "multiline": True,
                        "default": "a red star on a night sky",
                        "tooltip": "What the picture should show, in the words of the model's training captions.",
                    },
                ),
            }
        }

    def encode(self, *, clip, text):
        warnings = []
        if dropped := clip.truncated(text):
            warnings.append(
                f"{_NAME}: the caption is longer than the {clip.config.context_length} tokens of "
                f'{clip.clip_id}; dropped "{dropped}"'
            )
        if unknown := clip.unknown_words(text):
            known = clip.vocabulary_summary()
            hint = f"; it knows {known}" if known else ""
            warnings.append(f"{_NAME}: {clip.clip_id} does not know {', '.join(unknown)}{hint}")
        current_host().warn(*warnings)
        return (clip.encode_text([text]),)
