"""Text As Embedding, Slerp, Text Diff, Embedding Blend, Noise Embedding: moving where the decoder paints from."""

from .host import node_warnings
from .inputs import FAMILY, further_inputs, linked, path_inputs, seed_input, verdict


class _Embedding:
    CATEGORY = "unCLIP/embedding"
    RETURN_TYPES = ("UNCLIP_EMBED",)
    RETURN_NAMES = ("EMBED",)


class UnCLIPTextAsEmbedding(_Embedding):
    """A caption's own embedding in an image embedding's place."""

    TITLE = "Text As Embedding"
    SEARCH_ALIASES = (*FAMILY, "zero-shot", "without prior", "text embedding", "caption")
    DESCRIPTION = (
        "Takes the caption's CLIP embedding as if it were a picture's, without a prior. The decoder was not trained on "
        "these: compare with the Diffusion Prior to see what the prior is for."
    )
    FUNCTION = "convert"
    OUTPUT_TOOLTIPS = ("The caption's embedding.",)

    @classmethod
    def INPUT_TYPES(cls):
        tooltip = "The caption, from CLIP Text Encode."
        return {"required": {"text": ("UNCLIP_TEXT", {"tooltip": tooltip, "needs": ["text"]})}}

    def convert(self, *, text):
        from ..unclip_core.embeddings import text_as_embedding

        return (text_as_embedding(text),)


class UnCLIPSlerpEmbedding(_Embedding):
    """Embeddings on the way from one to another."""

    TITLE = "Slerp (unCLIP)"
    SEARCH_ALIASES = (*FAMILY, "interpolate", "interpolation", "blend", "mix", "morph")
    DESCRIPTION = (
        "Goes from one embedding to another along the sphere that embeddings live on, in even steps. Decode the batch "
        "to see one picture's content become the other's."
    )
    FUNCTION = "mix"
    OUTPUT_TOOLTIPS = ("A batch: the frames from embed_a to embed_b.",)

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "embed_a": ("UNCLIP_EMBED", {"tooltip": "Where to start."}),
                "embed_b": ("UNCLIP_EMBED", {"tooltip": "Where to go; from the same CLIP."}),
                **path_inputs("start", "end", 1.0, "of the way from embed_a to embed_b"),
            }
        }

    def mix(self, *, embed_a, embed_b, start, end, frames):
        from ..unclip_core.embeddings import slerp_embeddings

        with node_warnings() as warn:
            embed = slerp_embeddings(embed_a, embed_b, start, end, frames, warn=warn)
        return (embed,)


class UnCLIPTextDiff(_Embedding):
    """A picture's embedding, turned toward what leads from one caption to another."""

    TITLE = "Text Diff (unCLIP)"
    SEARCH_ALIASES = (*FAMILY, "edit", "change by words", "language guided", "style")
    DESCRIPTION = (
        "Changes in a picture what differs between two captions: its embedding is turned toward the difference of "
        "theirs. Keep the picture's inverted noise to leave the rest as it is."
    )
    FUNCTION = "turn"
    OUTPUT_TOOLTIPS = ("A batch: the frames from start_theta to end_theta.",)

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "embed": ("UNCLIP_EMBED", {"tooltip": "The picture, from CLIP Image Encode."}),
                "text_from": ("UNCLIP_TEXT", {"tooltip": "What the picture shows now.", "needs": ["text"]}),
                "text_to": ("UNCLIP_TEXT", {"tooltip": "What it should show.", "needs": ["text"]}),
                **path_inputs("start_theta", "end_theta", 0.5, "of the angle to the difference; 0.25 to 0.5 is usual"),
            }
        }

    def turn(self, *, embed, text_from, text_to, start_theta, end_theta, frames):
        from ..unclip_core.embeddings import text_diff

        with node_warnings() as warn:
            turned = text_diff(embed, text_from, text_to, start_theta, end_theta, frames, warn=warn)
        return (turned,)


class UnCLIPEmbeddingBlend(_Embedding):
    """One embedding of several, each with a weight."""

    TITLE = "Embedding Blend"
    SEARCH_ALIASES = (*FAMILY, "mix", "mean", "average", "combine", "weights", "merge", "cross")
    DESCRIPTION = (
        "The weighted mean of embeddings of one CLIP: a picture of all of them at once. With one input linked the rows "
        "of its batch are blended into one; with several, row by row. A caption takes part through Text As Embedding."
    )
    FUNCTION = "blend"
    OUTPUT_TOOLTIPS = ("The blend: one embedding, or one for each row.",)

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "embed": ("UNCLIP_EMBED", {"tooltip": "The first, or a batch whose rows are blended."}),
                "weights": (
                    "STRING",
                    {
                        "default": "",
                        "tooltip": "A number for each, such as 1, 0.5; only their ratio counts. Below 0: away from "
                        "it. Empty: all the same.",
                    },
                ),
            },
            "optional": further_inputs("UNCLIP_EMBED", "embed", "What to blend with, place {number}."),
        }

    @classmethod
    def VALIDATE_INPUTS(cls, weights=None):
        return verdict(_weights, weights)

    def blend(self, *, embed, weights, **further):
        from ..unclip_core.embeddings import blend_embeddings

        embeds = linked("embed", embed, further)
        with node_warnings() as warn:
            blended = blend_embeddings(embeds, _weights(weights), warn=warn)
        return (blended,)


def _weights(text: str) -> list[float]:
    """Numbers between commas, semicolons or spaces. Raises ValueError for what is none."""
    weights = []
    for part in text.replace(",", " ").replace(";", " ").replace("，", " ").split():
        try:
            weights.append(float(part))
        except ValueError:
            raise ValueError(f"weights: {part!r} is not a number; write them as 1, 0.5") from None
    return weights


class UnCLIPNoiseEmbedding(_Embedding):
    """Embeddings with noise of a level that a Stable unCLIP decoder is told."""

    TITLE = "Noise Embedding"
    SEARCH_ALIASES = (*FAMILY, "stable unclip", "sd21", "noise augmentation", "noise level", "variation")
    DESCRIPTION = (
        "Stable unCLIP only: adds noise to an embedding and tells the decoder how much. More noise leaves less of the "
        "embedding, so that pictures vary more and the caption decides more."
    )
    FUNCTION = "noise"
    OUTPUT_TOOLTIPS = ("The embeddings with their noise; link them to Decoder Sample.",)

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "decoder": (
                    "UNCLIP_DECODER",
                    {
                        "tooltip": "DECODER of Load unCLIP, a Stable unCLIP; it knows how embeddings are spread.",
                        "needs": ["noise_level"],
                    },
                ),
                "embed": ("UNCLIP_EMBED", {"tooltip": "From CLIP Image Encode or a prior of the same model."}),
                "noise_level": (
                    "INT",
                    {
                        "default": 100,
                        "min": 0,
                        "max": 999,
                        "tooltip": "0: hardly any. 999: nothing of the embedding is left.",
                    },
                ),
                "seed": seed_input("noise"),
            }
        }

    def noise(self, *, decoder, embed, noise_level, seed):
        return (decoder.noise_embedding(embed, noise_level, seed),)
