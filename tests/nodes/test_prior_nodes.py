"""Autoregressive Prior and PCA Project on the tiny stack: every input does something, own values, bad input."""

import pytest
import torch

from comfyui_unclip.nodes import NODE_CLASS_MAPPINGS
from comfyui_unclip.nodes.pca import parse_counts


@pytest.fixture
def ar(stack, node):
    text = stack["CLIP"].encode_text(["a red star", "a blue boat"])

    def make(**inputs):
        return node("UnCLIPAutoregressivePrior", ar_prior=stack["AR PRIOR"], text=text, **inputs)

    return make


def test_every_input_of_the_ar_prior_does_something(ar, stack, host):
    plain = ar()
    assert plain.vector.shape == (2, 24) and plain.clip_id == "tiny-1" and plain.modality == "image"
    assert host.runs == [("Autoregressive Prior", 25)]  # 24 components and z_i . z_t
    assert torch.equal(ar().vector, plain.vector)
    negative = stack["CLIP"].encode_text(["night sky"])
    for inputs in (
        {"guidance_scale": 4.0},
        {"temperature": 0.3},
        {"dot_percentile": 99.0},
        {"candidates": 6},
        {"seed": 9},
    ):
        assert not torch.allclose(ar(**inputs).vector, plain.vector, atol=1e-4), inputs
    guided = ar(guidance_scale=4.0).vector
    assert not torch.allclose(ar(guidance_scale=4.0, negative_text=negative).vector, guided, atol=1e-4)
    assert ar(count=3).vector.shape == (6, 24) and not any(host.warnings)
    ar(guidance_scale=1.0, negative_text=negative)
    assert "Autoregressive Prior: at guidance_scale 1 negative_text has no effect" in host.warnings[-1][0]


def test_below_0_the_ar_priors_own_values_are_used(ar, stack):
    own = stack["AR PRIOR"].config.sampling
    given = ar(
        guidance_scale=own.guidance_scale, temperature=own.temperature, dot_percentile=own.dot_percentile, seed=4
    )
    assert torch.equal(ar(seed=4).vector, given.vector)
    assert not torch.equal(ar(seed=4, temperature=0.0).vector, given.vector)  # 0 is a value


def test_pca_project_makes_a_row_for_each_count(node, stack):
    embed = stack["CLIP"].encode_image(torch.rand(2, 64, 64, 3, generator=torch.Generator().manual_seed(0)))
    rows = node("UnCLIPPCAProject", embed=embed, component_counts="1, 5; 24")
    assert rows.vector.shape == (6, 24)
    assert torch.allclose(rows.vector[2::3], embed.vector, atol=1e-4)
    assert torch.allclose(rows.vector.norm(dim=1), torch.ones(6), atol=1e-5)
    closeness = (rows.vector.view(2, 3, 24) * embed.vector[:, None]).sum(-1)
    assert (closeness[:, 0] < closeness[:, 1]).all() and (closeness[:, 1] < closeness[:, 2]).all()


def test_pca_project_refuses_what_is_out_of_range(node, stack):
    embed = stack["CLIP"].encode_image(torch.rand(1, 64, 64, 3))
    with pytest.raises(ValueError, match="PCA Project: component_counts must be whole numbers from 1 to 24"):
        node("UnCLIPPCAProject", embed=embed)  # 30 is more than this CLIP has


@pytest.mark.parametrize(
    ("text", "counts"), [("20, 30", [20, 30]), ("7", [7]), (" 1;2\n3，4、5 ", [1, 2, 3, 4, 5]), ("5 5", [5, 5])]
)
def test_counts_are_read(text, counts):
    assert parse_counts(text) == counts


@pytest.mark.parametrize("text", ["", " , ", "0", "-3", "2.5", "ten", "20, 1e3", "²", "9999999"])
def test_bad_counts_are_refused_before_the_run(text):
    found = NODE_CLASS_MAPPINGS["UnCLIPPCAProject"].VALIDATE_INPUTS(component_counts=text)
    assert isinstance(found, str) and found.startswith("PCA Project: component_counts") and "20, 30, 40, 80" in found
