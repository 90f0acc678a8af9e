"""The nodes that join, pick, blend and sort: every input does something, and what comes out is what it says."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from comfyui_unclip.nodes import NODE_CLASS_MAPPINGS
from comfyui_unclip.unclip_core.embeddings import blend_embeddings, draw_x_T

KINDS = {"Embedding": "embed", "Text": "text", "Noise": "noise"}
every_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture
def captions(node):
    return node("UnCLIPTextEncode", text="a red star\na blue boat\na red boat", one_per_line=True)


@pytest.fixture
def batch_of(node, captions):
    """batch_of(kind, rows) -> a batch, of which no two rows are equal."""

    def make(kind, rows, seed=0):
        if kind == "Text":
            return node("UnCLIPTextFromBatch", text=captions, index=seed, length=rows)
        if kind == "Noise":
            return node("UnCLIPRandomNoise", seed=10 * seed, count=rows)
        first = node("UnCLIPTextFromBatch", text=captions)
        return node("UnCLIPDiffusionPrior", text=first, count=rows, seed=10 * seed)

    return make


def rows_of(batch):
    """What tells a batch's rows apart."""
    if hasattr(batch, "embed"):
        return batch.embed
    return batch.vector if hasattr(batch, "vector") else draw_x_T(batch, (3, 8, 8))


@every_kind
def test_every_linked_input_is_joined_and_found_again(node, batch_of, kind):
    name, parts = KINDS[kind], [batch_of(kind, 2), batch_of(kind, 1, seed=1), batch_of(kind, 1, seed=2)]
    inputs = dict(zip((name, f"{name}_2", f"{name}_8"), parts, strict=True))  # a gap is no fault
    joined = node(f"UnCLIP{kind}Batch", **inputs)
    expected = torch.cat([rows_of(part) for part in parts])
    assert torch.equal(rows_of(joined), expected)
    for options, rows in (({}, slice(0, 1)), ({"index": 2}, slice(2, 3)), ({"index": 1, "length": 0}, slice(1, 4))):
        picked = node(f"UnCLIP{kind}FromBatch", **{name: joined}, **options)
        assert torch.equal(rows_of(picked), expected[rows])
    with pytest.raises(ValueError, match=rf"{kind} From Batch: there is no \w+ 4; the batch has 4, numbered 0 to 3"):
        node(f"UnCLIP{kind}FromBatch", **{name: joined}, index=4)
    # A prompt may hold a link to what is no input, and ComfyUI passes it on.
    with pytest.raises(TypeError, match=f"there is no input '{name}_9'; link {name}, or {name}_2 to {name}_8"):
        node(f"UnCLIP{kind}Batch", **inputs, **{f"{name}_9": parts[0]})


def test_the_picture_of_a_row_is_painted_again_from_its_embedding_and_noise(node, batch_of):
    embed, noise = batch_of("Embedding", 3), batch_of("Noise", 3, seed=7)
    options = {"steps": 5, "sampler": "unipc"}
    sheet = node("UnCLIPDecoderSample", embed=embed, noise=noise, seed=1, **options)
    third = {
        "embed": node("UnCLIPEmbeddingFromBatch", embed=embed, index=2),
        "noise": node("UnCLIPNoiseFromBatch", noise=noise, index=2),
    }
    again = node("UnCLIPDecoderSample", **third, seed=99, **options)
    assert torch.allclose(again, sheet[2:], atol=1e-4) and (sheet[2] - sheet[1]).abs().max() > 1e-2
    # Without it: item i of the batch had the seed plus i.
    by_seed = node("UnCLIPDecoderSample", embed=embed, seed=5, sampler="ddpm", steps=5)
    alone = node("UnCLIPDecoderSample", embed=third["embed"], seed=7, sampler="ddpm", steps=5)
    assert torch.allclose(alone, by_seed[2:], atol=1e-4)


def test_captions_in_several_lines_go_with_several_embeddings_of_each(node, captions):
    embed = node("UnCLIPDiffusionPrior", text=captions, count=2)
    together = node("UnCLIPDecoderSample", embed=embed, text=captions, steps=4, guidance_scale=3.0)
    assert len(embed) == len(together) == 6
    one = node("UnCLIPEmbeddingFromBatch", embed=embed, index=3)
    caption = node("UnCLIPTextFromBatch", text=captions, index=1)
    alone = node("UnCLIPDecoderSample", embed=one, text=caption, seed=3, steps=4, guidance_scale=3.0)
    assert torch.allclose(alone, together[3:4], atol=1e-4)


def test_the_blends_weights_are_read_and_matter(node, batch_of):
    batch, other = batch_of("Embedding", 2), batch_of("Embedding", 1, seed=1)
    even = node("UnCLIPEmbeddingBlend", embed=batch, embed_5=other).vector
    assert torch.equal(even, blend_embeddings([batch, other]).vector) and len(even) == 2
    weighted = node("UnCLIPEmbeddingBlend", embed=batch, embed_5=other, weights="1; -0.5").vector
    assert torch.equal(weighted, blend_embeddings([batch, other], [1.0, -0.5]).vector)
    inside = node("UnCLIPEmbeddingBlend", embed=batch, weights="2, 1").vector
    assert torch.equal(inside, blend_embeddings([batch], [2.0, 1.0]).vector) and len(inside) == 1
    node_class = NODE_CLASS_MAPPINGS["UnCLIPEmbeddingBlend"]
    assert node_class.VALIDATE_INPUTS("1 .5") is True and node_class.VALIDATE_INPUTS(None) is True
    assert "'half' is not a number; write them as 1, 0.5" in node_class.VALIDATE_INPUTS("1, half")


def ranked(**inputs):
    with torch.inference_mode():
        answer = NODE_CLASS_MAPPINGS["UnCLIPRankByCLIP"]().rank(**{"keep": 0, **inputs})
    return answer["result"], answer["ui"]


def test_embeddings_are_ranked_by_their_cosine_to_the_caption(node, batch_of, captions):
    embed = batch_of("Embedding", 4)
    boat = node("UnCLIPTextFromBatch", text=captions, index=1)
    (best_first, image, scores), shown = ranked(text=boat, embed=embed)
    cosines = F.cosine_similarity(embed.vector, boat.embed)
    order = cosines.argsort(descending=True)
    assert torch.equal(best_first.vector, embed.vector[order])
    assert scores.splitlines() == [f"#{row} {cosines[row]:.3f}" for row in order.tolist()]
    assert shown["labels"] == [[f"{place} ← #{row}" for place, row in enumerate(order.tolist())]]
    assert torch.allclose(torch.tensor(shown["scores"][0]), cosines[order])
    (two, _, _), _ = ranked(text=boat, embed=embed, keep=2)
    assert torch.equal(two.vector, best_first.vector[:2])
    with pytest.raises(
        ValueError, match="Rank by CLIP: its input image is not linked; link the pictures to sort to it"
    ):
        next(iter(image))  # as Save Image does


def test_pictures_are_ranked_by_what_clip_sees_and_their_embeddings_follow(node, stack, batch_of, captions):
    pictures = torch.rand(3, 64, 64, 3, generator=torch.Generator().manual_seed(0))
    star, embed = node("UnCLIPTextFromBatch", text=captions), batch_of("Embedding", 3)
    seen = F.cosine_similarity(stack["CLIP"].encode_image(pictures).vector, star.embed)
    order = seen.argsort(descending=True)
    (followed, best_first, scores), _ = ranked(text=star, image=pictures, embed=embed, clip=stack["CLIP"])
    assert torch.equal(best_first, pictures[order]) and torch.equal(followed.vector, embed.vector[order])
    assert [line.split()[0] for line in scores.splitlines()] == [f"#{row}" for row in order.tolist()]
    (missing, *_), _ = ranked(text=star, image=pictures, clip=stack["CLIP"])
    with pytest.raises(ValueError, match="its input embed is not linked; link the embeddings to sort to it"):
        len(missing.vector)


def test_what_cannot_be_ranked_is_refused(node, stack, batch_of, captions):
    star, pictures = node("UnCLIPTextFromBatch", text=captions), torch.rand(2, 64, 64, 3)
    with pytest.raises(ValueError, match="there is nothing to sort; link embed, image or both"):
        ranked(text=star)
    with pytest.raises(ValueError, match="to look at pictures it needs CLIP; link clip of Load unCLIP"):
        ranked(text=star, image=pictures)
    with pytest.raises(ValueError, match="3 embeddings do not go with 2 pictures"):
        ranked(text=star, image=pictures, embed=batch_of("Embedding", 3), clip=stack["CLIP"])
    with pytest.raises(ValueError, match="2 rows do not divide among the 3 captions of text"):
        ranked(text=captions, image=pictures, clip=stack["CLIP"])


def test_each_of_several_captions_keeps_its_best_and_the_decoder_paints_it_under_that_caption(node, captions):
    ideas = node("UnCLIPDiffusionPrior", text=captions, count=3, seed=1)
    (best, _, scores), shown = ranked(text=captions, embed=ideas, keep=1)
    cosines = F.cosine_similarity(ideas.vector, captions.embed.repeat_interleave(3, 0)).view(3, 3)
    rows = [3 * caption + place for caption, place in enumerate(cosines.argmax(1).tolist())]
    assert torch.equal(best.vector, ideas.vector[rows])
    told = [f"#{row} {cosines.flatten()[row]:.3f} {text}" for row, text in zip(rows, captions.captions, strict=True)]
    assert scores.splitlines() == told and shown["labels"] == [[f"{place} ← #{row}"] for place, row in enumerate(rows)]
    settings = {"steps": 2, "sampler": "ddim", "noise_per_item": False}
    together = node("UnCLIPDecoderSample", embed=best, text=captions, **settings)
    boat = node("UnCLIPTextFromBatch", text=captions, index=1)
    alone = node("UnCLIPDecoderSample", embed=best.take([1]), text=boat, **settings)
    assert torch.allclose(together[1], alone[0], atol=1e-4)


def test_an_embedding_under_the_caption_of_another_is_warned_of_and_a_caption_of_its_own_is_not(node, host, captions):
    ideas = node("UnCLIPDiffusionPrior", text=captions, count=2)
    assert ideas.captions == tuple(text for text in captions.captions for _ in range(2))

    def said(run):
        host.warnings.clear()
        run()
        (messages,) = host.warnings
        return list(messages)

    def painted(embed, text):
        return lambda: node("UnCLIPDecoderSample", embed=embed, text=text, steps=2, sampler="ddim")

    idea = node("UnCLIPEmbeddingFromBatch", embed=ideas, index=2)
    caption = node("UnCLIPTextFromBatch", text=captions, index=1)
    (message,) = said(painted(idea, captions))
    assert message.startswith(
        "Decoder Sample: the embedding of 'a blue boat' goes with the caption 'a red star' (row 0)"
    )
    assert len(said(painted(ideas, caption))) == 1
    three = node("UnCLIPEmbeddingFromBatch", embed=ideas, index=1, length=3)
    (message,) = said(lambda: ranked(text=captions, embed=three))
    assert message.startswith("Rank by CLIP: the embedding of 'a blue boat' goes with the caption 'a red boat' (row 2)")

    other = node("UnCLIPTextEncode", text="a photograph of a boat")
    split = node("UnCLIPPCAProject", embed=ideas, component_counts="1, 4")
    seen = replace(ideas, captions=())
    good = [(idea, caption), (ideas, captions), (idea, other), (ideas, other), (split, captions), (seen, caption)]
    assert [said(painted(*pair)) for pair in good] == [[]] * len(good)
