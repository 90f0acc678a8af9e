"""Pulls from a hub on 127.0.0.1: which files, resumed to the byte, checked, installed whole; errors on one line."""

import contextlib
import errno
import gzip
import random
import re
import shutil
import socket

import pytest

from comfyui_unclip.tests.hub_server import folder_files
from comfyui_unclip.unclip_core.checkpoints import hub, hub_files
from comfyui_unclip.unclip_core.checkpoints.hub import HubError, RemoteFile, choose_files, plan_pull
from comfyui_unclip.unclip_core.checkpoints.hub_files import STAGING, pull

KARLO = "kakaobrain/karlo-v1-alpha"
NETWORKS = ("prior", "decoder", "text_proj", "text_encoder", "super_res_first", "super_res_last")
INDEX = b'{"_class_name": "UnCLIPPipeline"}'


def karlo_like(size=3000):
    """Paths as the published repository has them, with bytes that nobody can guess."""
    files = {
        "README.md": b"---\nlicense: creativeml-openrail-m\n---\n",
        "model_index.json": INDEX,
        ".gitattributes": b"x",
    }
    for network in NETWORKS:
        stem = "model" if network == "text_encoder" else "diffusion_pytorch_model"
        weights = random.Random(network).randbytes(size)
        files[f"{network}/config.json"] = b'{"n": "%s"}' % network.encode()
        files[f"{network}/{stem}.safetensors"] = weights
        files[f"{network}/{'pytorch_model' if network == 'text_encoder' else stem}.bin"] = weights[::-1]
    for name in ("prior", "decoder", "super_res"):
        files[f"{name}_scheduler/scheduler_config.json"] = b"{%s}" % name.encode()
    files["tokenizer/vocab.json"] = b"v" * 5000
    files["tokenizer/special_tokens_map.json"] = b"{}"
    return files


@pytest.fixture
def published(hub_server, hub_repository):
    """The published repository's shape on the local hub."""
    card = {"license": "creativeml-openrail-m"}
    hub_server.repositories[KARLO] = hub_repository(karlo_like(), card=card, revisions=("main", "refs/pr/8"))
    return hub_server.repositories[KARLO]


@pytest.fixture(autouse=True)
def on_this_hub(hub_server, monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", hub_server.url)
    template = hub_server.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 100)  # what a cut may lose
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)


def remote(*paths):
    return {path: RemoteFile(path, 10, "") for path in paths}


def names(files):
    return [file.path for file in files]


def test_only_what_a_stack_needs_is_chosen(published):
    plan = plan_pull(KARLO)
    chosen = set(names(plan.files))
    expected = {"README.md", "model_index.json", "tokenizer/special_tokens_map.json"}
    expected |= {path for path in published.files if path.endswith(("config.json", ".safetensors"))}
    assert chosen == expected and len(names(plan.files)) == len(chosen)
    assert (plan.name, plan.commit, plan.kind) == ("karlo-v1-alpha", published.commit, "UnCLIPPipeline")
    assert plan.licence == "CreativeML OpenRAIL-M"
    assert plan.size == sum(len(published.files[path]) for path in chosen)


def test_addresses_and_revisions(published):
    assert plan_pull(f"https://huggingface.co/{KARLO}/").repo == KARLO
    assert plan_pull(KARLO, "refs/pr/8").revision == "refs/pr/8"
    published.card.clear()
    assert plan_pull(KARLO).licence == "CreativeML OpenRAIL-M"  # known, though the card does not say it


WEIGHTS = {
    "safetensors before pickles": (
        ["model.bin", "model.safetensors"],
        None,
        ["model.safetensors"],
    ),
    "full precision before a variant": (
        ["model.fp16.safetensors", "model.safetensors"],
        "bf16",
        ["model.safetensors"],
    ),
    "the variant that was asked for": (
        ["model.fp16.safetensors", "model.safetensors"],
        "fp16",
        ["model.fp16.safetensors"],
    ),
    "a pickle when there is nothing else": (["pytorch_model.bin"], None, ["pytorch_model.bin"]),
    "the only variant": (["model.fp16.safetensors"], None, ["model.fp16.safetensors"]),
    "shards with their index": (
        ["model.safetensors.index.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"],
        None,
        ["model.safetensors.index.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"],
    ),
    "an incomplete set of shards is passed over": (
        ["model.safetensors.index.json", "model-00001-of-00002.safetensors", "pytorch_model.bin"],
        None,
        ["pytorch_model.bin"],
    ),
    "shards of a variant": (
        ["model.safetensors.index.fp16.json", "model.fp16-00001-of-00001.safetensors"],
        "fp16",
        ["model.safetensors.index.fp16.json", "model.fp16-00001-of-00001.safetensors"],
    ),
}


@pytest.mark.parametrize("case", WEIGHTS)
def test_one_set_of_weights_per_network(case):
    there, dtype, expected = WEIGHTS[case]
    others = [f"{network}/model.safetensors" for network in NETWORKS if network != "prior"]
    files = remote("model_index.json", *others, *(f"prior/{name}" for name in there))
    _, chosen = choose_files("a/b", files, {"_class_name": "UnCLIPPipeline"}, dtype)
    assert [path.removeprefix("prior/") for path in names(chosen) if path.startswith("prior/")] == expected


def test_our_own_repositories():
    files = remote(
        "README.md", "clip.safetensors", "decoder.safetensors", "decoder.pca.safetensors", "other.safetensors"
    )
    kind, chosen = choose_files("a/b", files, None)
    assert kind == "native"
    assert names(chosen) == ["README.md", "clip.safetensors", "decoder.safetensors", "decoder.pca.safetensors"]


def test_what_can_be_read_can_be_pulled():
    from comfyui_unclip.unclip_core.checkpoints import diffusers_folder

    assert set(diffusers_folder.PIPELINES) <= set(hub.PIPELINES)


FAMILY = {
    "KandinskyV22PriorPipeline": (
        ["prior", "text_encoder", "image_encoder"],
        ["scheduler/scheduler_config.json", "image_processor/preprocessor_config.json"],
    ),
    "KandinskyV22InpaintPipeline": (["unet", "movq"], ["scheduler/scheduler_config.json"]),
    "KandinskyPipeline": (
        ["unet", "movq", "text_encoder"],
        ["scheduler/scheduler_config.json", "ddpm_scheduler/scheduler_config.json", "tokenizer/tokenizer.json"],
    ),
    "StableUnCLIPImg2ImgPipeline": (
        ["unet", "vae", "text_encoder", "image_encoder", "image_normalizer"],
        ["image_noising_scheduler/scheduler_config.json", "feature_extractor/preprocessor_config.json"],
    ),
}


@pytest.mark.parametrize("kind", FAMILY)
def test_of_each_pipeline_its_networks_and_their_settings(kind):
    networks, settings = FAMILY[kind]
    weights = [f"{network}/model{ending}" for network in networks for ending in (".safetensors", ".fp16.safetensors")]
    other = ["safety_checker/model.safetensors", "tokenizer/vocab.json", "image.png", "movq.ckpt"]
    files = remote("model_index.json", *weights, *settings, *other, *(f"{network}/config.json" for network in networks))
    found, chosen = choose_files("a/b", files, {"_class_name": kind})
    expected = {"model_index.json", *settings, *(f"{network}/config.json" for network in networks)}
    assert found == kind and set(names(chosen)) == expected | {f"{network}/model.safetensors" for network in networks}


def test_a_repository_of_one_network():
    files = remote("README.md", "config.json", "diffusion_pytorch_model.bin", "diffusion_pytorch_model.safetensors")
    kind, chosen = choose_files("a/b", files, {"_class_name": "PriorTransformer"})
    assert kind == hub.PRIOR
    assert names(chosen) == ["README.md", "config.json", "diffusion_pytorch_model.safetensors"]


def test_only_the_prior_of_a_larger_repository(published):
    plan = plan_pull(KARLO, networks=("prior", "text_encoder"), name="karlo-prior")
    assert plan.name == "karlo-prior" and set(names(plan.files)) == {
        "README.md",
        "prior/config.json",
        "prior/diffusion_pytorch_model.safetensors",
        "prior_scheduler/scheduler_config.json",
        "text_encoder/config.json",
        "text_encoder/model.safetensors",
        "tokenizer/special_tokens_map.json",
    }


def test_an_image_variation_model_has_no_prior():
    folders = [name for name in (*NETWORKS, "image_encoder") if name != "prior"]
    files = remote("model_index.json", *(f"{name}/model.safetensors" for name in folders))
    _, chosen = choose_files("a/b", files, {"_class_name": "UnCLIPImageVariationPipeline"})
    assert len(chosen) == 7


def test_pulls_into_a_folder_whole(published, hub_server, tmp_path):
    steps = []
    plan = plan_pull(KARLO)
    where = pull(plan, tmp_path / "models", on_progress=lambda what, done, total: steps.append((done, total)))
    assert where == tmp_path / "models" / "karlo-v1-alpha"
    found = {path.relative_to(where).as_posix(): path.read_bytes() for path in where.rglob("*") if path.is_file()}
    assert found == {file.path: published.files[file.path] for file in plan.files}
    assert not (tmp_path / "models" / STAGING).exists()
    assert [done for done, _ in steps] == sorted(done for done, _ in steps)
    assert steps[-1] == (plan.size, plan.size)
    hub_server.requests.clear()
    assert pull(plan, tmp_path / "models") == where and not hub_server.requests  # complete already


def test_a_cut_connection_is_resumed_where_it_broke(published, hub_server, tmp_path):
    weights = "decoder/diffusion_pytorch_model.safetensors"
    published.cuts[weights] = [1000, 500]
    where = pull(plan_pull(KARLO), tmp_path)
    assert (where / weights).read_bytes() == published.files[weights]
    assert [span for path, span in hub_server.fetched() if path == weights] == [None, "bytes=1000-", "bytes=1500-"]


def test_a_pull_that_gave_up_goes_on_next_time(published, hub_server, tmp_path):
    weights = "prior/diffusion_pytorch_model.safetensors"
    published.cuts[weights] = [1200, *[0] * 20]
    with pytest.raises(HubError, match=r"no connection to .*, or it broke off .* run the same command again"):
        pull(plan_pull(KARLO), tmp_path)
    assert not (tmp_path / "karlo-v1-alpha").exists()
    published.cuts.clear()
    done = {path for path, _ in hub_server.fetched()} - {weights}
    hub_server.requests.clear()
    steps = []
    where = pull(plan_pull(KARLO), tmp_path, on_progress=lambda what, done, total: steps.append(done))
    assert (where / weights).read_bytes() == published.files[weights]
    fetched = hub_server.fetched()
    assert (weights, "bytes=1200-") in fetched
    assert not done & {path for path, _ in fetched} - {"model_index.json"}  # which the plan reads


def test_a_server_without_ranges_starts_the_file_anew(published, tmp_path):
    weights = "prior/diffusion_pytorch_model.safetensors"
    published.cuts[weights] = [700]
    published.ignores_ranges = True
    where = pull(plan_pull(KARLO), tmp_path)
    assert (where / weights).read_bytes() == published.files[weights]


def test_damaged_bytes_are_noticed_and_thrown_away(published, tmp_path):
    weights = "text_proj/diffusion_pytorch_model.safetensors"
    published.spoilt.add(weights)
    with pytest.raises(HubError, match=rf"{weights} arrived damaged \(its hash differs\)"):
        pull(plan_pull(KARLO), tmp_path)
    published.spoilt.clear()
    assert (pull(plan_pull(KARLO), tmp_path) / weights).read_bytes() == published.files[weights]


def of(path, **changes):
    """Changes what the list says of one file."""

    def change(said):
        next(entry for entry in said["siblings"] if entry["rfilename"] == path).update(changes)

    return change


PRIOR_WEIGHTS = "prior/diffusion_pytorch_model.safetensors"
OUT = "../../../../outside"
LIES = {
    "commit": lambda said: said.update(sha=OUT),
    "no commit": lambda said: said.update(sha=None),
    "digest": of(PRIOR_WEIGHTS, lfs={"sha256": OUT, "size": 3000, "pointerSize": 1}),
    "blob": of("model_index.json", blobId=OUT),
    "size": of(PRIOR_WEIGHTS, size=-5, lfs=None),
    "more bytes": of(PRIOR_WEIGHTS, size=100),
    "longer index": of("model_index.json", size=3),
    "huge": of(PRIOR_WEIGHTS, size=10**400),
    "huge, in LFS": of(PRIOR_WEIGHTS, size=1 << 60),
    "a truth": of(PRIOR_WEIGHTS, size=True),
    "no list": lambda said: said.update(siblings={"a": 1}),
    "no names": lambda said: said.update(siblings=[[]]),
}


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize("cached", [False, True], ids=["folder", "cache"])
def test_a_hub_that_lies_writes_nothing_elsewhere_and_is_told_in_a_line(published, tmp_path, lie, cached):
    (tmp_path / "outside.incomplete").write_text("mine")
    published.lies = LIES[lie]
    with pytest.raises(HubError, match=f"{KARLO}: (the answer is not one of|more comes of|no connection)") as found:
        pull(plan_pull(KARLO), None if cached else tmp_path / "models")
    assert "\n" not in str(found.value)
    assert (tmp_path / "outside.incomplete").read_text() == "mine" and not (tmp_path / "outside").exists()
    assert {path.name for path in tmp_path.iterdir()} <= {"outside.incomplete", "models", "cache"}


def sending(*headers, status=200, body=lambda data: [data]):
    """An answer with these headers and blocks of bytes."""

    def answer(handler, data):
        handler.send_response(status)
        for name, value in (*headers, ("Connection", "close")):
            handler.send_header(name, value)
        handler.end_headers()
        with contextlib.suppress(OSError):  # the client has had enough
            for block in body(data):
                handler.wfile.write(block)
        handler.close_connection = True

    return answer


def chunked(data):
    """More than anybody reads."""
    for _ in range(4000):
        yield b"10000\r\n" + b" " * 0x10000 + b"\r\n"


def bomb(data):
    """8 MB in 8 kB."""
    return [gzip.compress(bytes(8 << 20))]


CHUNKS, ZIPPED = ("Transfer-Encoding", "chunked"), ("Content-Encoding", "gzip")
LONGER, SHORTER = ("Content-Length", "9000"), ("Content-Length", "7")
ANSWERS = {
    "no end": sending(CHUNKS, body=chunked),
    "bomb": sending(ZIPPED, body=bomb),
    "no gzip": sending(ZIPPED, body=lambda data: [b"GZ" * 2000]),
    "too long": sending(LONGER),
    "too short": sending(SHORTER),
    "no number": sending(("Content-Length", "-1")),
    "broken chunks": sending(CHUNKS, body=lambda data: [b"zz\r\n"]),
    "to a file": sending(("Location", "file:///etc/passwd"), ("Content-Length", "0"), status=302),
    "to itself": sending(("Location", "?again"), ("Content-Length", "0"), status=302),
    "no address": sending(("Location", "http://[::"), ("Content-Length", "0"), status=302),
}


@pytest.mark.parametrize("path", ["", "model_index.json", PRIOR_WEIGHTS], ids=["list", "index", "weights"])
@pytest.mark.parametrize("answer", ANSWERS)
def test_an_answer_that_is_no_honest_http_is_told_in_a_line_and_kept_nowhere(
    published, tmp_path, monkeypatch, answer, path
):
    monkeypatch.setattr(hub, "_MAX_LISTING", 1 << 20)
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1 << 16)
    published.answers[path] = ANSWERS[answer]
    with pytest.raises((HubError, ValueError)) as found:
        pull(plan_pull(KARLO), tmp_path / "models")
    assert "\n" not in str(found.value) and KARLO in str(found.value)
    assert not (tmp_path / "models" / "karlo-v1-alpha").exists()
    kept = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert all(path.stat().st_size <= 6000 and b"root:" not in path.read_bytes() for path in kept)
    published.answers.clear()
    whole = pull(plan_pull(KARLO), tmp_path / "models")
    assert (whole / PRIOR_WEIGHTS).read_bytes() == published.files[PRIOR_WEIGHTS]


def test_into_the_cache_under_the_hubs_own_names(published, hub_server, tmp_path):
    weights = "super_res_last/diffusion_pytorch_model.safetensors"
    published.cuts[weights] = [1200, *[0] * 20]
    with pytest.raises(HubError):
        pull(plan_pull(KARLO), None)
    published.cuts.clear()
    hub_server.requests.clear()
    plan = plan_pull(KARLO)
    where = pull(plan, None)
    folder = tmp_path / "cache" / "models--kakaobrain--karlo-v1-alpha"
    assert where == folder / "snapshots" / published.commit
    assert (folder / "refs" / "main").read_text() == published.commit
    assert all((where / file.path).read_bytes() == published.files[file.path] for file in plan.files)
    assert (weights, "bytes=1200-") in hub_server.fetched()
    assert not list((folder / "blobs").glob("*.incomplete"))


def test_converted_on_the_way(hub_server, hub_repository, tiny_models, tmp_path):
    from comfyui_unclip.unclip_core.checkpoints.catalog import read_stack

    files = {path.name: path.read_bytes() for path in (tiny_models / "tiny").iterdir()}
    hub_server.repositories["someone/tiny"] = hub_repository(files | {"README.md": b"---\nlicense: mit\n---\n"})
    (tmp_path / STAGING).mkdir()
    stages = []
    where = pull(plan_pull("someone/tiny"), tmp_path, "bf16", on_stage=stages.append)
    found = read_stack(where)
    assert where == tmp_path / "tiny" and not found.problems
    assert [stage.stage for stage in stages] == list(found.stages)
    assert {stage.dtype for stage in found.stages.values()} == {"bf16"}
    assert (where / "README.md").exists() and not (tmp_path / STAGING).exists()
    with pytest.raises(ValueError, match="converted files have no place in the Hugging Face cache"):
        pull(plan_pull("someone/tiny"), None, "bf16")


def test_a_real_folder_arrives_whole_and_is_found_sound(karlo, hub_server, hub_repository, tmp_path):
    from comfyui_unclip.unclip_core.checkpoints.catalog import read_stack
    from comfyui_unclip.unclip_core.checkpoints.verify import verify_stack

    karlo.write_karlo_folder(tmp_path / "source")
    hub_server.repositories[KARLO] = hub_repository(folder_files(tmp_path / "source"))
    for dtype in (None, "bf16"):
        entry = read_stack(pull(plan_pull(KARLO), tmp_path / str(dtype), dtype))
        assert list(entry.stages) == ["clip", "prior", "decoder", "upsampler_256"] and not entry.problems
        assert {stage.licence for stage in entry.stages.values()} == {"creativeml-openrail-m"}
        assert verify_stack(entry) == []


def test_a_file_that_is_gone_or_cut_is_fetched_again(published, hub_server, tmp_path):
    plan = plan_pull(KARLO)
    where = pull(plan, tmp_path)
    gone, cut = (
        where / "prior/diffusion_pytorch_model.safetensors",
        where / "decoder/diffusion_pytorch_model.safetensors",
    )
    gone.unlink()
    cut.write_bytes(cut.read_bytes()[:-7])
    (where / "decoder.pca.safetensors").write_bytes(b"mine")
    hub_server.requests.clear()
    assert pull(plan, tmp_path) == where and not (tmp_path / STAGING).exists()
    assert all((where / file.path).read_bytes() == published.files[file.path] for file in plan.files)
    assert (where / "decoder.pca.safetensors").read_bytes() == b"mine"
    assert sorted(path for path, _ in hub_server.fetched()) == sorted(
        path.relative_to(where).as_posix() for path in (gone, cut)
    )


def test_something_else_of_that_name_is_left_alone(published, tmp_path):
    (tmp_path / "karlo-v1-alpha").mkdir()
    (tmp_path / "karlo-v1-alpha" / "mine.txt").write_text("x")
    (tmp_path / "karlo-v1-alpha" / "README.md").write_bytes(published.files["README.md"])  # a card is no model
    with pytest.raises(ValueError, match=r"karlo-v1-alpha: there is something of that name already"):
        pull(plan_pull(KARLO), tmp_path)
    assert (tmp_path / "karlo-v1-alpha" / "mine.txt").read_text() == "x"


REFUSED = {
    "a Stable Diffusion": (
        {"model_index.json": b'{"_class_name": "StableDiffusionPipeline"}', "unet/x.safetensors": b"w" * 500},
        "model_index.json says StableDiffusionPipeline, but an unCLIP is one of UnCLIPPipeline",
    ),
    "no model at all": ({"README.md": b"hello"}, "not an unCLIP model: it has neither a model_index.json"),
    "an index that is none": ({"model_index.json": b"<html>"}, "its model_index.json is not a JSON object"),
    "a folder is missing": (
        {path: data for path, data in karlo_like().items() if not path.startswith("text_proj")},
        "incomplete, it has no folder text_proj",
    ),
    "weights are missing": (
        {path: data for path, data in karlo_like().items() if not path.startswith("prior/diff")},
        "no complete weights .* in prior/",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_another_kind_of_repository_is_refused_before_weights_travel(case, hub_server, hub_repository):
    files, message = REFUSED[case]
    hub_server.repositories["some/thing"] = hub_repository(files)
    with pytest.raises(ValueError, match=message):
        plan_pull("some/thing")
    assert {path for path, _ in hub_server.fetched()} <= {"model_index.json"}


def test_unknown_gated_and_offline(published, hub_server, monkeypatch):
    with pytest.raises(ValueError, match=r"^nobody/nothing: no such repository at http.*; check the name"):
        plan_pull("nobody/nothing")
    with pytest.raises(ValueError, match="no revision 'v9'; give --revision"):
        plan_pull(KARLO, "v9")
    asked = len(hub_server.requests)
    for name in ("karlo", "a/b/c", "owner/..", "owner/a b", "owner/name?x", "owner/name#x"):
        with pytest.raises(ValueError, match=f"'{re.escape(name)}' is no repository; give owner/name"):
            plan_pull(name)
    assert len(hub_server.requests) == asked  # of no other address either
    published.gated = True
    with pytest.raises(HubError, match=rf"^{KARLO}: gated; accept its terms at {hub_server.url}/{KARLO}, then log in"):
        plan_pull(KARLO)


def test_no_network_is_one_line(monkeypatch):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{closed.getsockname()[1]}")
        with pytest.raises(HubError, match="no connection to http") as failure:
            plan_pull(KARLO)
    assert "\n" not in str(failure.value)


def test_the_disk_is_looked_at_before_the_first_byte(published, hub_server, tmp_path, monkeypatch):
    plan = plan_pull(KARLO)
    free = shutil._ntuple_diskusage(10**12, 10**12 - 10**6, 10**6)
    monkeypatch.setattr(hub_files.shutil, "disk_usage", lambda path: free)
    hub_server.requests.clear()
    with pytest.raises(HubError, match=r"needs 0\.1 GB on the disk of .*, which has 0\.0 GB free"):
        pull(plan, tmp_path)
    assert not hub_server.requests


def test_a_disk_that_fills_up_is_one_line():
    with pytest.raises(HubError, match="the disk is full; free some space"), hub.explained(KARLO, "main"):
        raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(HubError, match="/x: Permission denied; choose another folder"), hub.explained(KARLO, "main"):
        raise PermissionError(errno.EACCES, "Permission denied", "/x")
