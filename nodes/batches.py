"""Batches of embeddings, captions and start noises: joined, and taken apart again."""

from .host import node_warnings
from .inputs import FAMILY, further_inputs, linked

_JOIN = (*FAMILY, "concatenate", "combine", "list", "several", "append")
_PICK = (*FAMILY, "select", "choose", "pick", "index", "slice", "row")


class _Embedding:
    CATEGORY = "unCLIP/embedding"
    RETURN_TYPES = ("UNCLIP_EMBED",)
    RETURN_NAMES = ("EMBED",)


class _Text:
    CATEGORY = "unCLIP/encode"
    RETURN_TYPES = ("UNCLIP_TEXT",)
    RETURN_NAMES = ("TEXT",)


class _Noise:
    CATEGORY = "unCLIP/start noise"
    RETURN_TYPES = ("UNCLIP_NOISE",)
    RETURN_NAMES = ("NOISE",)


def _rows_inputs(what: str) -> dict:
    """Which rows are picked. what: a row, in words."""
    return {
        "index": (
            "INT",
            {
                "default": 0,
                "min": 0,
                "max": 4095,
                "tooltip": f"Which {what} is the first to be kept. 0: the batch's first.",
            },
        ),
        "length": (
            "INT",
            {"default": 1, "min": 0, "max": 4096, "tooltip": "How many are kept. 0: all from index on."},
        ),
    }


class UnCLIPEmbeddingBatch(_Embedding):
    """Several batches of embeddings as one."""

    TITLE = "Embedding Batch"
    SEARCH_ALIASES = _JOIN
    DESCRIPTION = (
        "Puts embeddings of one CLIP one after another into a batch: what comes after it runs once for all of them. "
        "Embedding From Batch takes a batch apart."
    )
    FUNCTION = "join"
    OUTPUT_TOOLTIPS = ("All of them: first the rows of embed, then those of embed_2 and so on.",)

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {"embed": ("UNCLIP_EMBED", {"tooltip": "The first embeddings."})},
            "optional": further_inputs("UNCLIP_EMBED", "embed", "Embeddings of the same CLIP, place {number}."),
        }

    def join(self, *, embed, **further):
        from ..unclip_core.embeddings import join_embeddings

        embeds = linked("embed", embed, further)
        with node_warnings() as warn:
            joined = join_embeddings(embeds, warn=warn)
        return (joined,)


class UnCLIPEmbeddingFromBatch(_Embedding):
    """Some of a batch's embeddings."""

    TITLE = "Embedding From Batch"
    SEARCH_ALIASES = _PICK
    DESCRIPTION = (
        "Takes one embedding, or several in a row, out of a batch: the third of eight ideas, say, to vary it. Picked "
        "alone it is decoded with the seed itself, where row i of the batch had seed + i."
    )
    FUNCTION = "pick"
    OUTPUT_TOOLTIPS = ("The rows that were picked.",)

    @classmethod
    def INPUT_TYPES(cls):
        tooltip = "A batch, such as a prior makes with a count above 1."
        return {"required": {"embed": ("UNCLIP_EMBED", {"tooltip": tooltip}), **_rows_inputs("embedding")}}

    def pick(self, *, embed, index, length):
        from ..unclip_core.embeddings import pick_rows

        return (pick_rows(self.TITLE, "embedding", embed, index, length),)


class UnCLIPTextBatch(_Text):
    """Several encoded captions as one batch."""

    TITLE = "Text Batch"
    SEARCH_ALIASES = (*_JOIN, "captions", "prompts")
    DESCRIPTION = (
        "Puts encoded captions of one CLIP one after another into a batch. For captions typed in one place, "
        "one_per_line of CLIP Text Encode does the same."
    )
    FUNCTION = "join"
    OUTPUT_TOOLTIPS = ("All of them: first the captions of text, then those of text_2 and so on.",)

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {"text": ("UNCLIP_TEXT", {"tooltip": "The first captions."})},
            "optional": further_inputs("UNCLIP_TEXT", "text", "Captions of the same CLIP, place {number}."),
        }

    def join(self, *, text, **further):
        from ..unclip_core.embeddings import join_texts

        return (join_texts(linked("text", text, further)),)


class UnCLIPTextFromBatch(_Text):
    """Some of a batch's captions."""

    TITLE = "Text From Batch"
    SEARCH_ALIASES = (*_PICK, "caption", "prompt")
    DESCRIPTION = (
        "Takes one encoded caption, or several in a row, out of a batch: the caption of the picture that is to be "
        "painted again, or the one to rank by."
    )
    FUNCTION = "pick"
    OUTPUT_TOOLTIPS = ("The captions that were picked.",)

    @classmethod
    def INPUT_TYPES(cls):
        tooltip = "A batch, such as CLIP Text Encode makes with one_per_line."
        return {"required": {"text": ("UNCLIP_TEXT", {"tooltip": tooltip}), **_rows_inputs("caption")}}

    def pick(self, *, text, index, length):
        from ..unclip_core.embeddings import pick_rows

        return (pick_rows(self.TITLE, "caption", text, index, length),)


class UnCLIPNoiseBatch(_Noise):
    """Several start noises as one batch."""

    TITLE = "Noise Batch"
    SEARCH_ALIASES = (*_JOIN, "seeds", "start noise", "x_T")
    DESCRIPTION = (
        "Puts start noises one after another into a batch: seeds of your choice, or the noises of several inverted "
        "pictures. Together with an inverted one, all are decoded as that one must be."
    )
    FUNCTION = "join"
    OUTPUT_TOOLTIPS = ("All of them: first the rows of noise, then those of noise_2 and so on.",)

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "noise": ("UNCLIP_NOISE", {"tooltip": "The first noises; of a Start From Picture there is none."})
            },
            "optional": further_inputs(
                "UNCLIP_NOISE", "noise", "Noises; if inverted, in the same steps, place {number}."
            ),
        }

    def join(self, *, noise, **further):
        from ..unclip_core.embeddings import join_noises

        return (join_noises(linked("noise", noise, further)),)


class UnCLIPNoiseFromBatch(_Noise):
    """Some of a batch's start noises."""

    TITLE = "Noise From Batch"
    SEARCH_ALIASES = (*_PICK, "seed", "start noise", "x_T")
    DESCRIPTION = (
        "Takes one start noise, or several in a row, out of a batch. With the embedding of the same row, and a sampler "
        "that adds no noise (ddim at eta 0, dpmpp_2m, unipc), the very picture of that row is painted again."
    )
    FUNCTION = "pick"
    OUTPUT_TOOLTIPS = ("The rows that were picked.",)

    @classmethod
    def INPUT_TYPES(cls):
        tooltip = "A batch: Random Noise with a count above 1, DDIM Invert of several pictures, or Start From Picture."
        return {"required": {"noise": ("UNCLIP_NOISE", {"tooltip": tooltip}), **_rows_inputs("noise")}}

    def pick(self, *, noise, index, length):
        from ..unclip_core.embeddings import pick_rows

        return (pick_rows(self.TITLE, "noise", noise, index, length),)
