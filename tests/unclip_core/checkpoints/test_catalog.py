"""The catalog: finds stacks by folder name, in order, and says what is broken and where it looked."""

import os
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save

from comfyui_unclip.unclip_core.checkpoints import catalog
from comfyui_unclip.unclip_core.checkpoints.native import save_stage
from comfyui_unclip.unclip_core.config import DecoderConfig, PriorConfig


@pytest.fixture
def root(tmp_path, monkeypatch):
    """An otherwise empty search path: $UNCLIP_MODELS is this folder, and nothing is embedded."""
    monkeypatch.setattr(catalog, "EMBEDDED", tmp_path / "embedded")
    monkeypatch.setenv(catalog.ENVIRONMENT, str(tmp_path / "models"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "models"


def write(folder, stage="prior", file=None, config=None):
    config = config or {"prior": PriorConfig(), "decoder": DecoderConfig()}[stage]
    path = folder / (file or f"{stage}.safetensors")
    save_stage(path, {"weight": torch.ones(3)}, stage, config)
    return path


def test_lists_stacks_with_their_stages_and_configs(root):
    write(root / "one")
    write(root / "two", "decoder")
    write(root / "two", "prior", file="my own name.safetensors")
    (root / "notes").mkdir()
    (root / "two" / "README.md").write_text("x")
    stacks = catalog.list_stacks()
    assert list(stacks) == ["one", "two"]
    assert list(stacks["two"].stages) == ["prior", "decoder"]  # in the order of the pipeline
    assert stacks["two"].stages["decoder"].config == DecoderConfig()
    assert stacks["one"].folder == root / "one" and not stacks["one"].problems


def test_search_order_and_equal_names(root, tmp_path, caplog):
    for place in ("host", "models"):
        write(tmp_path / place / "same")
    write(tmp_path / "embedded" / "storybook")
    stacks = catalog.list_stacks([tmp_path / "host"])
    assert list(stacks) == ["storybook", "same"]
    assert stacks["same"].folder == tmp_path / "host" / "same"
    assert "two models are called 'same'" in caplog.text and str(tmp_path / "models" / "same") in caplog.text
    caplog.clear()
    catalog.list_stacks([tmp_path / "host"])
    assert caplog.text == ""  # once is enough


def test_environment_holds_several_folders(root, tmp_path, monkeypatch):
    write(tmp_path / "a" / "one")
    write(tmp_path / "b" / "two")
    monkeypatch.setenv(catalog.ENVIRONMENT, os.pathsep.join([str(tmp_path / "a"), "", str(tmp_path / "b")]))
    assert list(catalog.list_stacks()) == ["one", "two"]


def test_find_says_what_there_is_and_where_it_looked(root, tmp_path):
    write(root / "one")
    assert catalog.find("one").name == "one"
    with pytest.raises(ValueError) as error:
        catalog.find("karlo", [tmp_path / "host"])
    message = str(error.value)
    assert "no model 'karlo'; put a folder" in message and "installed: one" in message
    assert all(str(folder) in message for folder in (tmp_path / "embedded", tmp_path / "host", root))
    assert "$UNCLIP_MODELS" in message and "\n" not in message


def test_broken_files_are_listed_and_refused(root):
    write(root / "one")
    broken = write(root / "one", "decoder")
    broken.write_bytes(broken.read_bytes()[:-1])
    (root / "one" / "upsampler_256.safetensors").write_text("not a checkpoint")
    entry = catalog.list_stacks()["one"]
    assert list(entry.stages) == ["prior"] and len(entry.problems) == 2
    with pytest.raises(ValueError, match=r"'one' is broken: .*decoder.safetensors: truncated.*; .*upsampler_256"):
        catalog.find("one")


def test_two_files_of_one_stage_are_a_problem(root):
    write(root / "one")
    write(root / "one", file="copy.safetensors")
    with pytest.raises(ValueError, match=r"copy.safetensors: a second prior beside prior.safetensors; remove one"):
        catalog.find("one")


def test_tables_and_foreign_files_are_no_stages(root):
    write(root / "one")
    for name in ("one.pca.safetensors", "one.analytic.safetensors", "someone_elses.safetensors"):
        (root / "one" / name).write_text("x")
    assert catalog.find("one").problems == ()
    (root / "foreign").mkdir()
    (root / "foreign" / "model.safetensors").write_text("x")
    assert list(catalog.list_stacks()) == ["one"]


def revision(cache, repository, name, age=0):
    """A snapshot of a repository in a Hugging Face cache."""
    folder = cache / f"models--{repository.replace('/', '--')}" / "snapshots" / name
    write(folder)
    os.utime(folder, (1000 - age, 1000 - age))
    return folder


def test_the_hugging_face_cache_is_searched_last(root, tmp_path, caplog):
    old = revision(tmp_path / "hub", "someone/karlo-v1-alpha", "abc", age=5)
    new = revision(tmp_path / "hub", "someone/karlo-v1-alpha", "def")
    assert catalog.find("karlo-v1-alpha").folder == new  # no branch on record: the newest
    refs = old.parents[1] / "refs"
    refs.mkdir()
    (refs / "main").write_text("abc")
    assert catalog.find("karlo-v1-alpha").folder == old
    (refs / "main").write_text("gone")
    assert catalog.find("karlo-v1-alpha").folder == new
    write(root / "karlo-v1-alpha")
    assert catalog.find("karlo-v1-alpha").folder == root / "karlo-v1-alpha"
    assert "two models are called 'karlo-v1-alpha'" in caplog.text


def test_other_models_in_a_cache_are_nobodys_business(root, tmp_path):
    diffusion = revision(tmp_path / "hub", "stabilityai/stable-diffusion", "abc")
    (diffusion / "prior.safetensors").unlink()
    (diffusion / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    (tmp_path / "hub" / "models--empty--one" / "snapshots").mkdir(parents=True)
    (tmp_path / "hub" / "datasets--someone--pictures").mkdir()
    assert catalog.list_stacks() == {}


def test_where_the_hugging_face_cache_lies(monkeypatch, tmp_path):
    for name in ("HF_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert catalog.hub_cache().parts[-3:] == (".cache", "huggingface", "hub")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert catalog.hub_cache() == tmp_path / "x" / "huggingface" / "hub"
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    assert catalog.hub_cache() == tmp_path / "home" / "hub"
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    assert catalog.hub_cache() == tmp_path / "cache"


def test_reads_a_large_catalog_fast_and_without_torch(root):
    for index in range(20):
        write(root / f"stack{index}")
    code = (
        "import sys, time, importlib.abc\n"
        "class Refuse(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('torch', 'numpy', 'safetensors'): raise ImportError(name)\n"
        "sys.meta_path.insert(0, Refuse())\n"
        "from comfyui_unclip.unclip_core.checkpoints import catalog\n"
        "start = time.perf_counter()\n"
        "stacks = catalog.list_stacks()\n"
        "assert sum(name.startswith('stack') for name in stacks) == 20, stacks\n"
        "assert time.perf_counter() - start < 0.5\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, catalog.ENVIRONMENT: str(root)})


@pytest.mark.parametrize("name", ["karlo-v1-alpha", "kandinsky-2-2"])
def test_a_published_model_that_is_missing_or_broken_says_how_to_get_it(name, tiny_models, tmp_path, monkeypatch):
    monkeypatch.setenv("UNCLIP_MODELS", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(ValueError, match=f"no model '{name}'.*`unclip pull {name}`"):
        catalog.find(name)
    shutil.copytree(tiny_models / "tiny", tmp_path / name)
    weights = tmp_path / name / "decoder.safetensors"
    weights.write_bytes(weights.read_bytes()[:-9])
    with pytest.raises(ValueError, match=f"'{name}' is broken: .*truncated.*`unclip pull {name}` gets what is missing"):
        catalog.find(name)


def foreign(cache, name, files):
    """A repository in a Hugging Face cache that is no unCLIP: {path: content}."""
    folder = cache / f"models--someone--{name}" / "snapshots" / "abc"
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    (folder.parents[1] / "refs").mkdir()
    (folder.parents[1] / "refs" / "main").write_text("abc")
    return folder


def test_a_file_is_read_once_for_each_state_of_it(root, tmp_path, touched):
    native = write(root / "one")
    broken = write(root / "two", "decoder")
    broken.write_bytes(broken.read_bytes()[:-1])
    model = save({"w": torch.zeros(4)}, {"format": "pt"})
    foreign(tmp_path / "hub", "language", {"model-1.safetensors": model, "model-2.safetensors": model})
    foreign(tmp_path / "hub", "prior", {"prior.safetensors": model, "vae/config.json": b"{}", "README.md": b"---"})
    pipeline = b'{"_class_name": "StableDiffusionPipeline"}'
    foreign(tmp_path / "hub", "pipeline", {"model_index.json": pipeline, "unet/model.safetensors": model})
    opened = touched("open", tmp_path)
    first = catalog.list_stacks()
    assert list(first) == ["one", "two"] and first["two"].problems
    assert {str(native), str(broken)} < set(opened) and len(opened) == len(set(opened))
    opened.clear()
    assert catalog.list_stacks() == first == catalog.list_stacks([tmp_path / "host"])
    with pytest.raises(ValueError, match="truncated"):
        catalog.find("two")
    assert opened == []
    os.utime(native, (1, 1))  # the same size at another time
    write(root / "two", "decoder")
    opened.clear()
    assert catalog.find("two").problems == ()
    assert sorted(opened) == sorted([str(native), str(broken)])


def test_what_could_not_be_opened_is_tried_again(root, tmp_path):
    path = write(root / "one")
    sound = path.rename(tmp_path / "prior.safetensors")
    path.symlink_to("nowhere")
    assert "cannot be read" in catalog.list_stacks()["one"].problems[0]
    path.unlink()
    path.symlink_to(sound)
    assert catalog.find("one").stages
