"""Training side branches alone: what learns, what is saved, and that the file does what the run's network did."""

import pytest
import torch
import torch.nn.functional as F

from comfyui_unclip.tests.stage_file import load_stage
from comfyui_unclip.unclip_core.checkpoints.catalog import read_stack
from comfyui_unclip.unclip_core.checkpoints.header import CheckpointError
from comfyui_unclip.unclip_core.checkpoints.lora_file import load_lora
from comfyui_unclip.unclip_core.models.decoder import DecoderNetwork
from comfyui_unclip.unclip_core.models.prior import PriorNetwork
from comfyui_unclip.unclip_core.stack import load_stack
from comfyui_unclip.unclip_core.training.learned import learned_state, load_learned
from comfyui_unclip.unclip_core.training.loop import LoopOptions, train
from comfyui_unclip.unclip_core.training.lora import LORA_TASKS, LoraSettings, learning_branches
from comfyui_unclip.unclip_core.training.recipes import Recipe
from comfyui_unclip.unclip_core.types import Embedding

NETWORKS = {"prior": PriorNetwork, "decoder": DecoderNetwork}
stages = pytest.mark.parametrize("stage", list(NETWORKS))


@pytest.fixture
def make_task(tiny_configs, tiny_models, tiny_clip, story):
    """make_task(stage, recipe, **settings) -> the LoRA task of a stage of the stack `tiny`."""
    vectors = F.normalize(torch.randn(64, 24, generator=torch.Generator().manual_seed(0)), dim=-1)

    def make(stage, recipe, **settings):
        task = LORA_TASKS[stage](
            getattr(tiny_configs, stage),
            story,
            tiny_clip,
            vectors,
            recipe,
            weights=lambda: load_stage(tiny_models / "tiny" / f"{stage}.safetensors")[2],
            settings=LoraSettings(**{"rank": 2, **settings}),
        )
        task.validate = lambda network, rows, path: {}  # twenty sampling steps that say nothing here
        return task

    return make


def recipe(**changes):
    return Recipe(**{"steps": 4, "batch": 4, "lr": 1e-2, "warmup": 0, "ema": 0.5, **changes})


def run(task, folder, recipe, kill=None):
    options = LoopOptions(log_every=1, save_every=2, dtype="fp32")
    steps = train(task, recipe, folder, 64, options=options)
    for progress in steps:
        if progress.step == kill:
            steps.close()
    return torch.load(folder / "checkpoint.pt", weights_only=True)


@stages
@pytest.mark.parametrize("layers", ["attention", "all"])
def test_only_branches_learn_and_the_file_does_what_the_run_learned(
    stage, layers, make_task, tiny_models, tiny_clip, tmp_path
):
    plan = recipe()
    task = make_task(stage, plan, layers=layers)
    state = run(task, tmp_path, plan)
    assert all(name.endswith((".down", ".up")) for name in state["ema"]) and state["ema"]
    # Neither weights nor their optimiser's moments: a LoRA of 5 GB saves megabytes.
    assert not any(".layer." in name for name in state["network"])
    assert len(state["optimiser"]["state"]) == len(state["ema"])

    file = load_lora(tmp_path / f"{stage}-lora.safetensors")
    stack = load_stack(read_stack(tiny_models / "tiny"), "fp32", "cpu")
    handle = getattr(stack, stage)
    lora = file.stage_lora(stage, handle.config)
    assert (
        file.info.ids == {stage: getattr(handle.config, f"{stage}_id")}
        and file.info.metadata["ranks"] == f'{{"{stage}": 2}}'
    )
    learned = {name.removesuffix(".up"): value for name, value in state["ema"].items() if name.endswith(".up")}
    assert learned.keys() == lora.branches.keys()
    for name, value in learned.items():
        assert value.any(), name  # every branch has learned, and is what is in the file
        torch.testing.assert_close(lora.branches[name].up.float(), value, rtol=0.01, atol=1e-6)
    if layers == "attention":
        assert all(name.rpartition(".")[2] in ("qkv", "proj", "context_kv") for name in lora.branches)

    text = tiny_clip.encode_text(["a red star"])
    arguments = (text,) if stage == "prior" else (Embedding(text.embed, tiny_clip.clip_id), text)
    plain, changed = (each.sample(*arguments, seed=1) for each in (handle, handle.with_lora(lora)))
    plain, changed = (getattr(each, "vector", each) for each in (plain, changed))
    assert (plain - changed).abs().max() > 1e-4


@stages
def test_a_killed_run_goes_on_bit_for_bit(stage, make_task, tmp_path):
    plan = recipe(steps=5)
    whole = run(make_task(stage, plan), tmp_path / "whole", plan)
    assert run(make_task(stage, plan), tmp_path / "killed", plan, kill=4)["step"] == 2
    again = run(make_task(stage, plan), tmp_path / "killed", plan)
    for part in ("network", "ema"):
        assert whole[part].keys() == again[part].keys()
        assert all(torch.equal(value, again[part][name]) for name, value in whole[part].items())


def test_a_run_of_another_rank_is_not_taken_up(make_task, tmp_path):
    plan = recipe(steps=2)
    run(make_task("prior", plan), tmp_path, plan)
    with pytest.raises(CheckpointError, match=r"do not fit PriorNetwork \(first in blocks\.0\.proj\.down\)"):
        run(make_task("prior", recipe(steps=3), rank=3), tmp_path, recipe(steps=3))


def test_a_frozen_base_may_be_kept_in_half_precision(tiny_configs, tiny_models):
    """As on a GPU of 12 GB: the branches stay float32, and autocast brings both together."""
    config = tiny_configs.decoder
    network = DecoderNetwork(config)
    network.load_state_dict(
        {k: v.float() for k, v in load_stage(tiny_models / "tiny" / "decoder.safetensors")[2].items()}
    )
    settings = LoraSettings(2, base_dtype=torch.bfloat16)
    learning = learning_branches(network, settings)
    frozen = {value.dtype for value in learning.parameters() if not value.requires_grad}
    assert frozen == {torch.bfloat16}
    assert {value.dtype for value in learning.parameters() if value.requires_grad} == {torch.float32}
    x_t, t = torch.randn(2, 3, 64, 64), torch.tensor([10, 900])
    with torch.autocast("cpu", torch.bfloat16):
        loss = learning(x_t, t, learning.condition(torch.randn(2, 24))).square().mean()
    loss.backward()
    grads = [value.grad for value in learning.parameters() if value.requires_grad]
    assert all(grad is not None and grad.isfinite().all() for grad in grads)
    assert any(grad.any() for grad in grads)


def test_what_a_run_changes_is_saved_and_nothing_else(randomise, tiny_configs):
    network = randomise(PriorNetwork(tiny_configs.prior))
    assert learned_state(network).keys() == network.state_dict().keys()
    learning = learning_branches(network, LoraSettings(2))
    state = learned_state(learning)
    assert all(name.endswith((".down", ".up")) for name in state) and len(state) == 2 * 2
    load_learned(learning, {name: value + 1 for name, value in state.items()}, "here")
    assert all(torch.equal(value, state[name]) for name, value in learned_state(learning).items())  # its own tensors
    with pytest.raises(CheckpointError, match="here: the weights do not fit PriorNetwork"):
        load_learned(learning, {}, "here")


def test_settings_say_what_is_wrong():
    with pytest.raises(ValueError, match="--lora: the rank must be 1 or more, got 0"):
        LoraSettings(0)
    with pytest.raises(ValueError, match="--lora-layers 'mlp' is unknown; choose one of attention, all"):
        LoraSettings(2, "mlp")


def test_a_network_without_the_layers_that_are_to_learn_is_refused():
    with pytest.raises(ValueError, match="attention: this network has no such layer; choose all"):
        learning_branches(torch.nn.Sequential(torch.nn.Linear(2, 2)), LoraSettings(2))
