"""Verification lists everything that is wrong with a stack: file, key, expected, found."""

import shutil

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from comfyui_unclip.unclip_core.checkpoints.catalog import read_stack
from comfyui_unclip.unclip_core.checkpoints.verify import FileProblem, verify_stack


@pytest.fixture
def stack(tiny_models, tmp_path):
    """A copy of the tiny stack that may be damaged."""
    return shutil.copytree(tiny_models / "tiny", tmp_path / "tiny")


def change(path, edit):
    """Rewrite a file after edit(tensors by name)."""
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    edit(tensors)
    save_file(tensors, path, metadata)


def test_a_sound_stack_has_no_problems_and_every_byte_is_read(stack):
    steps = []
    assert verify_stack(read_stack(stack), lambda done, total: steps.append((done, total))) == []
    size = sum((stack / f"{stage}.safetensors").stat().st_size for stage in read_stack(stack).stages)
    assert steps[-1] == (size, size) and steps == sorted(steps)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_are_none_are_counted(stack, dtype, value):
    path = stack / "prior.safetensors"
    name = max(load_file(path), key=lambda name: load_file(path)[name].numel())

    def spoil(tensors):
        tensors[name] = tensors[name].to(dtype)
        tensors[name].view(-1)[[3, 5]] = value

    change(path, spoil)
    count = load_file(path)[name].numel()
    found = f"2 of {count} are NaN or infinite"
    assert verify_stack(read_stack(stack)) == [FileProblem(str(path), name, "finite numbers", found)]


def test_all_problems_are_listed_at_once(stack):
    prior, decoder, clip = (stack / f"{name}.safetensors" for name in ("prior", "decoder", "clip"))
    first, second, third = list(load_file(prior))[:3]
    shape = tuple(load_file(prior)[second].shape)

    def spoil(tensors):
        del tensors[first]
        tensors[second] = torch.zeros(7, 7)
        tensors[third][...] = float("nan")
        tensors["stranger"] = torch.zeros(2)

    change(prior, spoil)
    decoder.write_bytes(decoder.read_bytes()[:-10])
    change(clip, lambda tensors: tensors.pop("logit_scale"))
    problems = verify_stack(read_stack(stack))
    by_key = {(problem.file, problem.key): problem for problem in problems}
    assert len(problems) == len(by_key) == 6
    assert by_key[str(prior), first].found == "missing"
    assert by_key[str(prior), second] == FileProblem(str(prior), second, f"shape {shape}", "shape (7, 7)")
    assert by_key[str(prior), third].expected == "finite numbers"
    assert by_key[str(prior), "stranger"] == FileProblem(str(prior), "stranger", "no such tensor", "shape (2,)")
    assert "truncated" in by_key[str(decoder), ""].found
    assert by_key[str(clip), "logit_scale"].expected == "shape ()"


def test_a_foreign_folder_is_checked_under_its_own_names(karlo, tmp_path):
    folder = tmp_path / "karlo"
    karlo.write_karlo_folder(folder)
    assert verify_stack(read_stack(folder)) == []
    prior = folder / "prior" / "diffusion_pytorch_model.safetensors"
    projection = folder / "text_proj" / "diffusion_pytorch_model.safetensors"
    name = "prd_embedding"
    shape = tuple(load_file(prior)[name].shape)
    change(prior, lambda tensors: tensors.update({name: torch.zeros(3, 3)}))
    change(projection, lambda tensors: tensors["embedding_proj.weight"].fill_(float("inf")))
    wrong, infinite = sorted(verify_stack(read_stack(folder)), key=lambda problem: problem.key, reverse=True)
    assert wrong.file == str(prior) and wrong.key == name and wrong.found == "shape (3, 3)"
    assert wrong.expected.startswith("shape (") and str(shape[-1]) in wrong.expected
    assert infinite.file == str(projection) and infinite.key == "embedding_proj.weight"
    assert infinite.expected == "finite numbers"
