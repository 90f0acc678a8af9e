"""What `unclip check` finds: nothing on storybook, and on damaged copies of it the damage, at its place."""

import math
import shutil
from dataclasses import replace

import pytest
import torch
from torch import nn

from comfyui_unclip.tests.stage_file import load_stage
from comfyui_unclip.unclip_core.checkpoints.catalog import EMBEDDED, find, read_stack
from comfyui_unclip.unclip_core.checkpoints.native import save_stage
from comfyui_unclip.unclip_core.checkpoints.tables import read_basis, read_noise_powers, save_basis, save_noise_powers
from comfyui_unclip.unclip_core.evaluation import check_behaviour
from comfyui_unclip.unclip_core.evaluation.check import check_stack
from comfyui_unclip.unclip_core.evaluation.check_network import PUBLISHED
from comfyui_unclip.unclip_core.evaluation.check_weights import (
    count_numbers,
    find_turned,
    find_untrained_norms,
    measure_groups,
    measure_orientation,
)
from comfyui_unclip.unclip_core.models.build import build_network
from comfyui_unclip.unclip_core.presets import (
    ECLIPSE_KANDINSKY_2_2,
    ECLIPSE_KARLO,
    KANDINSKY_2_1,
    KANDINSKY_2_2,
    KARLO,
)
from comfyui_unclip.unclip_core.presets import STABLE_UNCLIP_H as STABLE_H
from comfyui_unclip.unclip_core.presets import STABLE_UNCLIP_L as STABLE_L
from comfyui_unclip.unclip_core.stack import load_stack

STORYBOOK = EMBEDDED / "storybook"
TABLES = ("storybook.pca.safetensors", "storybook.analytic.safetensors")


def checked(folder, pictures=False):
    """(all findings, those that failed)."""
    findings = list(check_stack(load_stack(read_stack(folder), "auto", "cpu"), pictures))
    return findings, [finding for finding in findings if finding.status == "failed"]


@pytest.fixture
def damaged(tmp_path):
    """damaged(stage, change) -> a copy of storybook's CLIP and that stage, whose state dict and config were changed:
    change(state, config) returns the config, or None to keep it."""

    def make(stage, change, tables=()):
        for name in {"clip", stage}:
            shutil.copy(STORYBOOK / f"{name}.safetensors", tmp_path)
        for name in tables:
            shutil.copy(STORYBOOK / name, tmp_path)
        _, config, state = load_stage(STORYBOOK / f"{stage}.safetensors")
        state = {name: tensor.clone() for name, tensor in state.items()}
        config = change(state, config) or config
        save_stage(tmp_path / f"{stage}.safetensors", state, stage, config)
        return tmp_path

    return make


def transposed(name, part=0):
    """Turns a square matrix, or one of several in a tensor."""

    def change(state, config):
        side = state[name].shape[1]
        rows = state[name][part * side : (part + 1) * side]
        rows.copy_(rows.t().clone())

    return change


@pytest.mark.parametrize(
    ("stage", "name", "part"),
    [
        ("prior", "blocks.2.proj.weight", None),
        ("prior", "blocks.0.qkv.weight", 1),
        ("clip", "transformer.resblocks.2.attn.out_proj.weight", None),
        ("clip", "transformer.resblocks.1.attn.in_proj_weight", 2),
        ("decoder", "unet.mid.attentions.0.context_kv.weight", 0),
        ("decoder", "unet.time_embed.linear_2.weight", None),
        ("ar_prior", "blocks.3.qkv.weight", 0),
        ("upsampler_256", "unet.mid_out.time.weight", None),
    ],
)
def test_a_transposed_matrix_is_named(damaged, stage, name, part):
    findings, failed = checked(damaged(stage, transposed(name, part or 0)))
    first = failed[0]
    assert (first.stage, first.check.split(": ")[-1]) == (stage, "matrices the right way round")
    assert first.found.startswith(name if part is None else f"{name}[{part}]"), first.found
    turned = [finding for finding in failed if "right way round" in finding.check]
    assert len(turned) == 1 and "report the names" in first.report
    assert all(finding.status == "ok" for finding in findings[: findings.index(first)])


def untrained(name):
    def change(state, config):
        state[f"{name}.weight"].fill_(1.0)
        state[f"{name}.bias"].zero_()

    return change


@pytest.mark.parametrize(
    ("stage", "name"), [("prior", "norm_out"), ("clip", "ln_final"), ("decoder", "unet.up.1.blocks.0.norm_2")]
)
def test_a_norm_that_took_its_initial_value_is_named(damaged, stage, name):
    _, failed = checked(damaged(stage, untrained(name)))
    assert failed[0].check.endswith(": norms") and failed[0].found == f"never trained: {name}"


def test_a_norm_that_is_missing_is_named(damaged):
    def change(state, config):
        del state["blocks.1.norm_2.weight"]

    _, failed = checked(damaged("prior", change))
    assert [finding.stage for finding in failed] == ["prior"] and "missing: blocks.1.norm_2.weight" in failed[0].found


@pytest.mark.parametrize(
    ("name", "factor", "check", "found"),
    [
        ("blocks.1.mlp_in.weight", 1000.0, "matrices", "blocks.1.mlp_in.weight "),
        ("out.weight", 0.0, "matrices", "out.weight 0 "),
        ("query", math.nan, "finite", "NaN in query"),
    ],
    ids=["scaled", "zeroed", "nan"],
)
def test_tensors_of_an_impossible_size_are_named(damaged, name, factor, check, found):
    def change(state, config):
        state[name] *= factor

    _, failed = checked(damaged("prior", change))
    assert failed[0].check == f"prior: {check}" and failed[0].found.startswith(found)


def with_statistics(mean, std):
    """Storybook's prior, its constant scale written as a mean and std; then another mean and std in their place."""

    def change(state, config):
        dim = config.clip_dim
        state["embed_in.weight"] *= config.embed_scale  # text embeddings are not scaled by statistics
        state["mean"] = torch.zeros(dim) if mean is None else mean(dim)
        state["std"] = torch.full((dim,), 1.0 / config.embed_scale) if std is None else std(dim)
        return replace(config, scaling="mean_std", embed_scale=1.0)

    return change


def drawn(dim, low, high):
    return torch.empty(dim).uniform_(low, high, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("mean", "std", "first"),
    [
        (None, None, None),
        # As OpenAI's ViT-L has them, about.
        (lambda dim: drawn(dim, -0.6, 0.6), lambda dim: drawn(dim, 0.3, 0.6), "statistics"),
        (None, lambda dim: drawn(dim, 0.3, 0.6), "statistics: mean square"),
    ],
    ids=["its own", "another's", "another's std"],
)
def test_another_models_statistics_are_noticed(damaged, mean, std, first):
    findings, failed = checked(damaged("prior", with_statistics(mean, std)))
    assert any(finding.check.startswith("statistics") for finding in findings)
    if first is None:
        assert not failed
    else:
        assert failed[0].check.startswith(first) and "another CLIP's" in failed[0].report


def test_fitted_tables_of_another_model_are_noticed(damaged):
    folder = damaged("prior", lambda state, config: None, TABLES)
    entry = read_stack(folder)
    clip_id, prior = entry.stages["clip"].config.clip_id, entry.stages["prior"].config
    basis = read_basis(entry, clip_id)
    turn = torch.linalg.qr(torch.randn(basis.dim, basis.dim, generator=torch.Generator().manual_seed(0))).Q
    save_basis(folder / TABLES[0], replace(basis, components=basis.components @ turn))
    powers = read_noise_powers(entry, prior.prior_id, prior.schedule.timesteps)
    save_noise_powers(folder / TABLES[1], powers.roll(400), prior.prior_id)
    failed = {finding.check: finding.report for finding in checked(folder)[1]}
    assert len(failed) == 2
    for (check, report), begins, command in zip(failed.items(), ("PCA", "analytic"), ("pca", "analytic"), strict=True):
        assert check.startswith(begins) and f"`unclip fit-{command}`" in report


def test_a_decoder_run_by_another_schedule_or_told_nothing_is_noticed(damaged):
    def other_prediction(state, config):
        return replace(config, schedule=replace(config.schedule, prediction="x0"))

    assert checked(damaged("decoder", other_prediction))[1][0].check == "drawings seen through noise"

    def tokens_mixed_up(state, config):
        return replace(config, token_order="token_major", embed_scale=-config.embed_scale)

    assert checked(damaged("decoder", tokens_mixed_up))[1][0].check == "error by another's image embedding"


def test_a_prior_of_another_clip_is_noticed(damaged):
    """The same sizes, the dimensions in another order."""

    def change(state, config):
        order = torch.randperm(config.clip_dim, generator=torch.Generator().manual_seed(1))
        for name in ("out.weight", "out.bias"):
            state[name] = state[name][order]

    failed = [finding.check for finding in checked(damaged("prior", change))[1]]
    assert "embeddings find their captions" in failed and "embeddings find the drawings" in failed


# -- every kind of stack can be checked --------------------------------------------------------------------------------


NOISE, STATISTICS = "drawings seen through noise", "statistics: mean square of drawings"
OWN_TEXT = "text encoder: norms"
AGAIN, LATENTS, PICTURE = "drawings painted again find themselves", "size of latents", "smoothness"


@pytest.mark.parametrize(
    ("name", "looked_at"),
    [
        ("karlo-v1-alpha", {"prior: norms", PICTURE}),
        ("karlo-v1-alpha-image-variations", {AGAIN, PICTURE}),
        ("kandinsky-2-2", {"prior: norms", STATISTICS, LATENTS, AGAIN, PICTURE}),
        ("kandinsky-2-2-controlnet-depth", {"prior: norms", STATISTICS, LATENTS}),
        ("kandinsky-2-1", {"prior: norms", STATISTICS, "text encoder: norms", LATENTS, AGAIN, PICTURE}),
        (
            "stable-diffusion-2-1-unclip-small",
            {"prior: norms", "text encoder: norms", STATISTICS, LATENTS, AGAIN, PICTURE},
        ),
        ("eclipse-karlo", {"prior: norms", PICTURE}),
    ],
)
def test_every_member_of_the_family_is_checked_to_the_end(members, monkeypatch, name, looked_at):
    """Random weights fail where training tells, and nowhere for want of something to check."""
    monkeypatch.setattr(check_behaviour, "LATENT_SIDE", 64)
    monkeypatch.setenv("UNCLIP_MODELS", str(members))
    pictures = []
    findings = list(check_stack(load_stack(find(name), "fp32", "cpu"), True, pictures.append))
    assert not [finding.found for finding in findings if finding.check == "runs"]
    status = {finding.check: finding.status for finding in findings if finding.status != "skipped"}
    every = {"prior: norms", OWN_TEXT, STATISTICS, LATENTS, AGAIN, PICTURE}
    assert {check for check in status if check in every} == looked_at
    assert ("autoencoder: norms" in status) == (LATENTS in looked_at)
    measured = {finding.stage for finding in findings if finding.check == STATISTICS}
    assert ("decoder" in measured) == name.startswith("stable")  # whose decoder scales embeddings
    assert status["decoder: norms"] == status["decoder: size"] == "ok" and status[NOISE] == "failed"
    assert status.get("embeddings find their captions", "failed") == "failed"
    assert bool(pictures) == (PICTURE in looked_at)


# -- the measures ------------------------------------------------------------------------------------------------------


def test_orientation_by_hand():
    """Two linear layers, whose gradients are outer products that can be written down."""
    generator = torch.Generator().manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 5)).requires_grad_(False)
    x = torch.randn(20, 6, generator=generator) * torch.logspace(0, -2, 6)
    found = measure_orientation(network, lambda module: [module(x)], probes=1)
    asked = torch.randn(20, 5, generator=torch.Generator().manual_seed(0)) @ network[1].weight
    weight, gradient = network[0].weight, asked.T @ x
    energies = [float((a @ b).square().sum()) for a in (gradient, gradient.T) for b in (weight.T, weight)]
    expected = math.log(energies[0] / energies[1]) + math.log(energies[3] / energies[2])
    assert found == {"0.weight": pytest.approx(expected, rel=1e-4)}
    network[0].weight.copy_(weight.T.clone())
    turned = measure_orientation(network, lambda module: [module(x)], probes=1)
    assert turned == {"0.weight": pytest.approx(-expected, rel=1e-4)}
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in network.parameters())


def test_a_matrix_is_compared_with_those_of_its_role():
    def role(*values, name="qkv.weight[1]"):
        return {f"blocks.{index}.{name}": value for index, value in enumerate(values)}

    others = role(1.0, 1.1, 0.9, 1.2, name="proj.weight")
    assert find_turned(role(0.6, 0.5, -0.4, 0.7) | others) == ["blocks.2.qkv.weight[1]"]
    assert find_turned(role(-0.6, -0.5, 0.4, -0.7) | others) == ["blocks.2.qkv.weight[1]"]
    assert find_turned(role(0.4, -0.3, 1.9, 0.5, 1.2) | others) == []  # they vary in this network
    assert find_turned(role(0.3, -0.1, 0.4, 0.5) | others) == []
    assert find_turned({"time.weight": -0.3} | others) == [] and find_turned({"time.weight": -1.2} | others)


def test_groups_and_norms_by_hand():
    network = nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Conv2d(2, 3, 3, bias=False), nn.GroupNorm(1, 3))
    with torch.no_grad():
        network[0].weight.fill_(0.25)
        network[0].bias.fill_(-2.0)
        network[1].weight.fill_(100.0)
        network[2].weight.fill_(2.0)
    groups = {group.kind: group for group in measure_groups(network)}
    assert groups["matrices"].low == pytest.approx(0.5) and groups["matrices"].high == pytest.approx(2.0 * 18**0.5)
    assert groups["biases"].median == 2.0 and not groups["biases"].odd
    assert groups["norm scales"].odd == (("1.weight", 100.0),)
    assert find_untrained_norms(network) == ["3"]


def test_published_sizes_are_those_of_our_configs():
    """As the authors' networks were counted, against ours on the meta device."""
    kandinsky = KANDINSKY_2_2.decoder
    inpaint = replace(kandinsky, extra_input="inpaint", unet=replace(kandinsky.unet, in_channels=9))
    hinted = replace(kandinsky, extra_input="hint", unet=replace(kandinsky.unet, in_channels=8))
    configs = {
        "kandinsky-2-2-inpaint/decoder": inpaint,
        "kandinsky-2-2-controlnet-depth/decoder": hinted,
    }
    for stack in (KARLO, KANDINSKY_2_1, KANDINSKY_2_2, ECLIPSE_KARLO, ECLIPSE_KANDINSKY_2_2, STABLE_H, STABLE_L):
        if stack.prior is not None:
            configs[stack.prior.prior_id] = stack.prior
        configs[stack.decoder.decoder_id] = stack.decoder
    counted = {}
    with torch.device("meta"):
        for name, config in configs.items():
            network = build_network(name.rpartition("/")[2], config)
            counted[name] = count_numbers(getattr(network, "network", network))
    assert counted == PUBLISHED
