"""CLIP Text Encode: from captions to what the prior and the decoder read."""

import re

from ..unclip_core.presets import explain_clip
from .host import current_host
from .inputs import FAMILY

_NAME = "CLIP Text Encode"
# What other encoders of this name take for commands: (word:1.2), ((word)), BREAK, embedding:name,
# <lora:name:1>.
_MARKS = re.compile(
    r"\([^()]*:\s*\d*\.?\d+\s*\)|\({2,}[^()]+\){2,}|\bBREAK\b|\bembedding:[\w.-]+|<(?:lora|lyco|hypernet):[^>]*>"
)


class UnCLIPTextEncode:
    """Captions as CLIP's token states and text embeddings."""

    TITLE = "CLIP Text Encode (unCLIP)"
    SEARCH_ALIASES = (*FAMILY, "prompt", "caption", "text to image", "t2i")
    DESCRIPTION = (
        "Reads a caption with the model's CLIP. The result drives the Diffusion Prior and, if you like, the decoder. "
        "Warns about words that the model does not know and about what it had to cut off. A caption is plain text: "
        "(word:1.2), BREAK and embedding:name do nothing, and are warned of."
    )
    CATEGORY = "unCLIP/encode"
    FUNCTION = "encode"
    RETURN_TYPES = ("UNCLIP_TEXT",)
    RETURN_NAMES = ("TEXT",)
    OUTPUT_TOOLTIPS = ("The encoded caption, or a batch of them.",)

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "clip": (
                    "UNCLIP_CLIP",
                    {
                        "tooltip": "CLIP of Load unCLIP; prior and decoder must be of the same model.",
                        "needs": ["captions"],
                    },
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
                "one_per_line": (
                    "BOOLEAN",
                    {
                        "default": False,
                        "tooltip": "On: every line is a caption of its own, a batch; empty lines are skipped. Off: "
                        "the whole text is one caption.",
                    },
                ),
            }
        }

    def encode(self, *, clip, text, one_per_line):
        captions = _lines(text) if one_per_line else [text]
        current_host().warn(*_warnings(clip, captions))
        return (clip.read_captions(captions),)


def _lines(text: str) -> list[str]:
    """The lines that are not empty; of a text without any, one empty caption."""
    return [line.strip() for line in text.splitlines() if line.strip()] or [""]


def _beginning(text: str, limit: int = 100) -> str:
    """The text in quotes; of a long one the beginning and the number of its words."""
    if len(text) <= limit:
        return f'"{text}"'
    return f'"{text[:limit].rstrip()} ..." ({len(text.split())} words)'


def _warnings(clip, captions: list[str]) -> list[str]:
    """What this CLIP cannot read of the captions."""
    warnings = []
    for number, caption in enumerate(captions, 1):
        if dropped := clip.truncated(caption):
            which = f"caption {number} of {len(captions)}" if len(captions) > 1 else "the caption"
            warnings.append(
                f"{_NAME}: {which} is longer than the {clip.config.context_length} tokens of {clip.clip_id}; "
                f"dropped {_beginning(dropped)}"
            )
    if marks := list(dict.fromkeys(mark for caption in captions for mark in _MARKS.findall(caption))):
        shown = ", ".join(marks[:3]) + (", ..." if len(marks) > 3 else "")
        warnings.append(
            f"{_NAME}: {shown} in a caption is read as plain text: words have no weights, parts or files here; say it "
            "in words, or raise guidance_scale"
        )
    # Of a mark, warned of above, the words that it holds alone: (dragon:1.2) is about a dragon, BREAK about nothing.
    said = [_MARKS.sub(lambda mark: mark[0].split(":")[0] if mark[0][0] == "(" else " ", text) for text in captions]
    if unknown := dict.fromkeys(word for caption in said for word in clip.unknown_words(caption)):
        known = clip.config.knows
        hint = f"; it knows {known}" if known else ""
        warnings.append(f"{_NAME}: {explain_clip(clip.clip_id)} does not know {', '.join(unknown)}{hint}")
    return warnings
