"""`unclip pull`, the whole command, from a hub on 127.0.0.1."""

import os
import shutil
import subprocess
import sys
import time

import pytest

from comfyui_unclip.tests.hub_server import folder_files
from comfyui_unclip.unclip_core.checkpoints.catalog import writable_folder
from comfyui_unclip.workflows.commands._tables import size_text

KARLO = "kakaobrain/karlo-v1-alpha"


@pytest.fixture
def hub(hub_server, hub_repository, tiny_models):
    """A hub with the tiny stack in our own layout, and a Stable Diffusion."""
    files = {path.name: path.read_bytes() for path in (tiny_models / "tiny").iterdir()}
    files["README.md"] = b"---\nlicense: creativeml-openrail-m\n---\n# tiny\n"
    card = {"license": "creativeml-openrail-m"}
    hub_server.repositories["someone/tiny"] = hub_repository(files | {"big.bin": b"x" * 9999}, card=card)
    index = b'{"_class_name": "StableDiffusionPipeline"}'
    hub_server.repositories["someone/sd"] = hub_repository({"model_index.json": index, "unet/model.bin": b"w" * 999})
    return hub_server


@pytest.fixture
def unclip(hub, tmp_path):
    """unclip(*arguments, **environment) -> completed process. A process of its own: HF_ENDPOINT is read on import."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "UNCLIP_"))}
    clean |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_TELEMETRY": "1"}
    command = [sys.executable, "-m", "comfyui_unclip.workflows.cli"]

    def call(*arguments, **environment):
        arguments = [str(argument) for argument in arguments]
        return subprocess.run([*command, *arguments], env=clean | environment, capture_output=True, text=True)

    call.environment, call.command = clean, command
    return call


def test_into_a_folder_and_found_there(unclip, hub, tmp_path):
    hub.repositories["someone/tiny"].cuts["decoder.safetensors"] = [40_000]
    result = unclip("pull", "someone/tiny", "--to", tmp_path / "models")
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0].startswith(f"someone/tiny at {hub.repositories['someone/tiny'].commit[:12]}: 9 files, ")
    assert lines[1] == "licence: CreativeML OpenRAIL-M" and "use restrictions also bind" in lines[2]
    assert lines[3] == f"wrote {tmp_path / 'models' / 'tiny'}"
    assert lines[4] == "stages: clip, prior, decoder, upsampler_256, upsampler_1024, ar_prior"
    assert lines[5] == f"not on the search path yet: set UNCLIP_MODELS={tmp_path / 'models'}"
    assert lines[6] == "model_name in Load unCLIP: tiny"
    found = {path.name: path.read_bytes() for path in (tmp_path / "models" / "tiny").iterdir()}
    assert found == {name: data for name, data in hub.repositories["someone/tiny"].files.items() if name != "big.bin"}
    listed = unclip("models", "tiny", UNCLIP_MODELS=str(tmp_path / "models"))
    assert listed.returncode == 0 and "CreativeML OpenRAIL-M" in listed.stdout


def test_without_a_folder_into_the_cache_which_is_searched(unclip, tmp_path):
    result = unclip("pull", "someone/tiny", "-q")
    assert result.returncode == 0 and result.stderr == ""
    assert f"wrote {tmp_path / 'hf' / 'hub'}" in result.stdout and "search path" not in result.stdout
    listed = unclip("models", "tiny")
    assert listed.returncode == 0 and str(tmp_path / "hf" / "hub") in listed.stdout


@pytest.fixture(scope="module")
def kandinsky(family, tmp_path_factory):
    """Files of both parts of a small Kandinsky 2.2, by repository."""
    folder = tmp_path_factory.mktemp("family")
    family.kandinsky_2_2(folder)
    return {f"kandinsky-community/{path.name}": folder_files(path) for path in folder.iterdir()}


PARTS = ["prior", "decoder"]
FOLDERS = {"prior": "kandinsky-2-2-prior", "decoder": "kandinsky-2-2-decoder"}


@pytest.fixture
def published(hub, hub_repository, kandinsky):
    """Both parts on the local hub."""
    for name, files in kandinsky.items():
        hub.repositories[name] = hub_repository(files, card={"license": "apache-2.0"})
    return hub.repositories


def test_a_model_of_two_parts_arrives_after_its_table(unclip, hub, published, tmp_path):
    models = tmp_path / "models"
    weights = "unet/diffusion_pytorch_model.safetensors"
    published["kandinsky-community/kandinsky-2-2-decoder"].cuts[weights] = [50_000]
    result = unclip("pull", "kandinsky-2-2", "--to", models)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0].startswith("kandinsky-2-2: text to picture")
    assert lines[1].split() == ["PART", "REPOSITORY", "LICENCE", "SIZE"]
    for line, part in zip(lines[2:4], PARTS, strict=True):
        assert line.startswith(f"{part} ") and f"kandinsky-community/{FOLDERS[part]} " in line
        assert " Apache-2.0 " in line and line.endswith("files") and "to fetch" in line
    assert lines[4].startswith("fetching ") and lines[4].endswith(f"into {models}")
    assert lines[5:7] == [f"wrote {models / FOLDERS[part]}" for part in PARTS]
    assert lines[7] == "stages: clip, prior, decoder" and lines[-1] == "model_name in Load unCLIP: kandinsky-2-2"
    listed = unclip("models", "kandinsky-2-2", "--verify", UNCLIP_MODELS=str(models))
    assert listed.returncode == 0 and "kandinsky-2-2: ok" in listed.stdout
    (models / FOLDERS["decoder"] / weights).unlink()
    hub.requests.clear()
    again = unclip("pull", "kandinsky-2-2", "--to", models)
    assert again.returncode == 0 and f"installed in {models / FOLDERS['prior']}" in again.stdout
    assert [path for path, _ in hub.fetched() if path != "model_index.json"] == [weights]


def test_converted_two_parts_become_one_folder_of_our_own(unclip, hub, published, tmp_path):
    models = tmp_path / "models"
    assert unclip("pull", "kandinsky-2-2", "--to", models, "-q").returncode == 0
    shutil.rmtree(models / FOLDERS["decoder"])
    result = unclip("pull", "kandinsky-2-2", "--to", models, "--dtype", "bf16")
    assert result.returncode == 0, result.stderr
    assert sorted(path.name for path in models.iterdir()) == ["kandinsky-2-2", "kandinsky-2-2-prior"]
    stages = [f"{stage}.safetensors" for stage in ("clip", "prior", "decoder")]
    names = {path.name for path in (models / "kandinsky-2-2").iterdir()}
    assert names == {*stages, "prior-README.md", "decoder-README.md"}
    listed = unclip("models", "kandinsky-2-2", "--verify", UNCLIP_MODELS=str(models))
    assert listed.returncode == 0 and "bf16" in listed.stdout and "kandinsky-2-2: ok" in listed.stdout
    refused = unclip("pull", "kandinsky-2-2", "--to", models, "--dtype", "fp16", "--from", "decoder=someone/tiny")
    assert refused.returncode == 2 and "kandinsky-2-2: exists already" in refused.stderr


def test_two_parts_in_the_cache_make_a_model_too(unclip, published, tmp_path):
    result = unclip("pull", "kandinsky-2-2", "-q")
    assert result.returncode == 0, result.stderr
    assert f"wrote {tmp_path / 'hf' / 'hub'}" in result.stdout
    assert "kandinsky-2-2 " in unclip("models").stdout


def test_what_can_be_pulled_is_listed(unclip):
    result = unclip("pull", "--list")
    assert result.returncode == 0 and "kandinsky-2-2 " in result.stdout and "(experimental)" in result.stdout


def test_killed_in_the_middle_it_goes_on(unclip, hub, tmp_path):
    repository = hub.repositories["someone/tiny"]
    repository.stalls["decoder.safetensors"] = 50_000
    models = tmp_path / "models"
    arguments = ["pull", "someone/tiny", "--to", str(models)]
    process = subprocess.Popen([*unclip.command, *arguments], env=unclip.environment, stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: ("decoder.safetensors", None) in hub.fetched())
        process.kill()
    finally:
        process.kill()
        process.wait()
    assert not (models / "tiny").exists()
    repository.stalls.clear()
    complete = {path for path, _ in hub.fetched()} - {"decoder.safetensors"}
    hub.requests.clear()
    assert unclip(*arguments).returncode == 0
    assert (models / "tiny" / "decoder.safetensors").read_bytes() == repository.files["decoder.safetensors"]
    fetched = {path for path, _ in hub.fetched()}
    assert "decoder.safetensors" in fetched and complete and not complete & fetched


def wait_for(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("arguments", "environment", "code", "message"),
    [
        (
            ["kandinsky-2-2"],
            {},
            2,
            "error: kandinsky-2-2, part prior: kandinsky-community/kandinsky-2-2-prior: no such",
        ),
        (["kandinsky-2-2", "--from", "decoder"], {}, 2, "error: pull: --from 'decoder' is not PART=OWNER/NAME"),
        (["kandinsky-2-2", "--revision", "v1"], {}, 2, "error: pull: --revision is for a repository; kandinsky-2-2 is"),
        ([], {}, 2, "error: pull: give a model, such as kandinsky-2-2"),
        (["someone/sd"], {}, 2, "error: someone/sd: its model_index.json says StableDiffusionPipeline, but"),
        (["someone/nothing"], {}, 2, "error: someone/nothing: no such repository at http://127.0.0.1"),
        (["someone/tiny"], {"HF_HUB_OFFLINE": "1"}, 1, "error: someone/tiny: HF_HUB_OFFLINE is set, so nothing can be"),
        (["someone/tiny", "--dtype", "bf16"], {}, 2, "error: pull: --dtype needs a model folder; give --to, or set"),
        (["someone/tiny"], {"HF_ENDPOINT": "http://127.0.0.1:9"}, 1, "error: someone/tiny: no connection to http"),
    ],
)
def test_errors_are_one_line(unclip, tmp_path, arguments, environment, code, message):
    result = unclip("pull", *arguments, **environment)
    assert result.returncode == code and result.stdout == ""
    assert result.stderr.startswith(message) and result.stderr.count("\n") == 1
    assert not (tmp_path / "hf" / "hub").exists() and not list(tmp_path.glob("models*"))


def test_where_a_pull_goes(tmp_path, monkeypatch):
    monkeypatch.delenv("UNCLIP_MODELS", raising=False)
    (tmp_path / "file").touch()
    assert writable_folder([]) is None
    monkeypatch.setenv("UNCLIP_MODELS", os.pathsep.join([str(tmp_path / "file"), str(tmp_path / "new" / "one")]))
    assert writable_folder([]) == tmp_path / "new" / "one"  # the first is no folder
    assert writable_folder([tmp_path / "editor"]) == tmp_path / "editor"


def test_sizes_for_people():
    assert [size_text(count) for count in (12, 3_400, 5_600_000, 13_700_000_000)] == [
        "12 bytes",
        "3.4 kB",
        "5.6 MB",
        "13.7 GB",
    ]
