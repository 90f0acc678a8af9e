"""Rank by CLIP: which of several ideas or pictures are closest to a caption."""

from .host import node_warnings
from .inputs import FAMILY, NotLinked


class UnCLIPRankByCLIP:
    """Embeddings or pictures in the order of their closeness to a caption."""

    TITLE = "Rank by CLIP"
    SEARCH_ALIASES = (*FAMILY, "sort", "best of", "rerank", "score", "similarity", "clip score", "choose")
    DESCRIPTION = (
        "Sorts embeddings or pictures by what CLIP says of how close they are to a caption, the closest first. With "
        "both linked it judges the pictures, and the embeddings they were painted from follow them. Several captions "
        "rank their own each."
    )
    CATEGORY = "unCLIP/embedding"
    FUNCTION = "rank"
    OUTPUT_NODE = True
    RETURN_TYPES = ("UNCLIP_EMBED", "IMAGE", "STRING")
    RETURN_NAMES = ("EMBED", "IMAGE", "SCORES")
    OUTPUT_TOOLTIPS = (
        "The embeddings, the closest first.",
        "The pictures, the closest first.",
        "One line for each: its place in the batch that came in, as #0, its cosine to the caption, and of several "
        "captions which.",
    )

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "text": (
                    "UNCLIP_TEXT",
                    {
                        "tooltip": "The caption to compare with. Of several, each sorts what was made of it: the first "
                        "part of the batch is the first caption's, and so on.",
                        "needs": ["text"],
                    },
                ),
                "keep": (
                    "INT",
                    {
                        "default": 0,
                        "min": 0,
                        "max": 4096,
                        "tooltip": "How many are kept, of each caption's. 0: all, sorted.",
                    },
                ),
            },
            "optional": {
                "embed": ("UNCLIP_EMBED", {"tooltip": "Embeddings to sort, of the same CLIP as the caption."}),
                "image": ("IMAGE", {"tooltip": "Pictures to sort; CLIP looks at each."}),
                "clip": (
                    "UNCLIP_CLIP",
                    {"tooltip": "CLIP of Load unCLIP; only needed to look at pictures.", "needs": ["image"]},
                ),
            },
        }

    def rank(self, *, text, keep, embed=None, image=None, clip=None):
        from ..unclip_core.embeddings import rank_by_text

        judged = self._judged(embed, image, clip)
        with node_warnings() as warn:
            order, scores = rank_by_text(judged, text, keep, made_from=embed, warn=warn)
        # A list for each caption.
        count = len(order) // len(text)
        labels = [[f"#{row}" for row in order[start : start + count]] for start in range(0, len(order), count)]
        tables = scores.view(len(text), count).tolist()
        endings = [f" {' '.join(caption.split())}" for caption in text.captions] if len(text) > 1 else [""]
        lines = "\n".join(
            f"{label} {score:.3f}{ending}"
            for names, table, ending in zip(labels, tables, endings, strict=True)
            for label, score in zip(names, table, strict=True)
        )
        sorted_embed = NotLinked(self.TITLE, "embed", "the embeddings to sort") if embed is None else embed.take(order)
        sorted_image = NotLinked(self.TITLE, "image", "the pictures to sort") if image is None else image[order]
        # The bars on the node say both places: the one to pick by, and the one that it had.
        places = iter(range(len(order)))
        bars = [[f"{next(places)} ← {label}" for label in names] for names in labels]
        shown = {"text": [lines], "labels": bars, "scores": tables}
        return {"ui": shown, "result": (sorted_embed, sorted_image, lines)}

    def _judged(self, embed, image, clip):
        """The embeddings that are compared. Raises ValueError for missing links, and for batches that do not match."""
        if image is None:
            if embed is None:
                raise ValueError(f"{self.TITLE}: there is nothing to sort; link embed, image or both")
            return embed
        if clip is None:
            raise ValueError(f"{self.TITLE}: to look at pictures it needs CLIP; link clip of Load unCLIP")
        if embed is not None and len(embed) != len(image):
            raise ValueError(
                f"{self.TITLE}: {len(embed)} embeddings do not go with {len(image)} pictures; link the embeddings that "
                "the pictures were painted from, one each"
            )
        return clip.encode_image(image)
