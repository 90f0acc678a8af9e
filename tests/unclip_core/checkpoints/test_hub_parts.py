"""Published models of several repositories, from a hub on 127.0.0.1: what is here stays, errors name the part."""

import pytest

from comfyui_unclip.tests.hub_server import folder_files
from comfyui_unclip.unclip_core.checkpoints import catalog, hub_files
from comfyui_unclip.unclip_core.checkpoints.hub import HubError
from comfyui_unclip.unclip_core.checkpoints.hub_parts import find_part, plan_parts, pull_parts
from comfyui_unclip.unclip_core.checkpoints.published import PUBLISHED
from comfyui_unclip.unclip_core.checkpoints.verify import verify_stack
from comfyui_unclip.unclip_core.config import STAGES

MODEL = PUBLISHED["kandinsky-2-2"]
PRIOR, DECODER = (part.repository for part in MODEL.parts)


@pytest.fixture(autouse=True)
def published(hub_server, hub_repository, tiny_models, monkeypatch, tmp_path):
    """Both repositories on the local hub, with the tiny stack's stages for the real ones."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", hub_server.url)
    template = hub_server.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)  # what a cut may lose
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)
    for part in MODEL.parts:
        files = {
            f"{stage}.safetensors": (tiny_models / "tiny" / f"{stage}.safetensors").read_bytes()
            for stage in part.stages
        }
        hub_server.repositories[part.repository] = hub_repository(files, card={"license": "apache-2.0"})
    return hub_server.repositories


def shown(planned):
    return [(entry.part.name, entry.folder is not None, entry.licence) for entry in planned]


def test_the_table_of_published_models_is_sound():
    for name, model in PUBLISHED.items():
        names = [part.name for part in model.parts]
        assert model.name == name and len(set(names)) == len(names)
        assert {"decoder"} <= {stage for part in model.parts for stage in part.stages} <= set(STAGES)
        assert all(part.repository.count("/") == 1 and part.folder for part in model.parts)


def test_every_part_arrives_and_what_is_here_is_not_asked_for_again(published, hub_server, tmp_path):
    published[DECODER].cuts["decoder.safetensors"] = [30_000, *[0] * 20]
    planned = plan_parts(MODEL, [tmp_path])
    assert shown(planned) == [("prior", False, "Apache-2.0"), ("decoder", False, "Apache-2.0")]
    with pytest.raises(HubError, match=r"^kandinsky-2-2, part decoder: .* run the same command again"):
        pull_parts(MODEL, planned, tmp_path)
    published[DECODER].cuts.clear()
    hub_server.requests.clear()
    planned = plan_parts(MODEL, [tmp_path])
    assert shown(planned) == [("prior", True, "Apache-2.0"), ("decoder", False, "Apache-2.0")]
    assert planned[0].size == sum(map(len, published[PRIOR].files.values()))
    folders = pull_parts(MODEL, planned, tmp_path)
    assert folders == {"prior": tmp_path / "kandinsky-2-2-prior", "decoder": tmp_path / "kandinsky-2-2-decoder"}
    assert hub_server.fetched() == [("decoder.safetensors", "bytes=30000-")]
    for part in MODEL.parts:
        for path, data in published[part.repository].files.items():
            assert (folders[part.name] / path).read_bytes() == data


def test_a_prior_is_shared_and_its_cut_file_is_mended(published, hub_server, tmp_path):
    pull_parts(MODEL, plan_parts(MODEL, [tmp_path]), tmp_path)
    inpaint = PUBLISHED["kandinsky-2-2-inpaint"]
    published[inpaint.parts[1].repository] = published[DECODER]
    assert [entry.folder is not None for entry in plan_parts(inpaint, [tmp_path])] == [True, False]
    weights = tmp_path / "kandinsky-2-2-prior" / "prior.safetensors"
    weights.write_bytes(weights.read_bytes()[:-5])
    assert [entry.folder is not None for entry in plan_parts(MODEL, [tmp_path])] == [False, True]
    hub_server.requests.clear()
    pull_parts(MODEL, plan_parts(MODEL, [tmp_path]), tmp_path)
    assert hub_server.fetched() == [("prior.safetensors", None)]
    assert weights.read_bytes() == published[PRIOR].files["prior.safetensors"]


def test_a_repository_that_is_gone_names_the_part_and_a_copy_takes_its_place(published, tmp_path):
    published["someone/copy"] = published.pop(DECODER)
    with pytest.raises(ValueError, match=rf"^kandinsky-2-2, part decoder: {DECODER}: no such repository") as failure:
        plan_parts(MODEL, [tmp_path])
    assert str(failure.value).endswith("`unclip pull kandinsky-2-2 --from decoder=OWNER/NAME` takes it from a copy")
    planned = plan_parts(MODEL, [tmp_path], sources={"decoder": "someone/copy"})
    assert pull_parts(MODEL, planned, tmp_path)["decoder"] == tmp_path / "kandinsky-2-2-decoder"
    with pytest.raises(ValueError, match="kandinsky-2-2 has no part 'movq'; its parts are prior, decoder"):
        plan_parts(MODEL, [tmp_path], sources={"movq": "someone/copy"})


def test_room_for_all_parts_is_looked_for_before_the_first(published, hub_server, tmp_path, monkeypatch):
    planned = plan_parts(MODEL, [tmp_path])
    largest = max(entry.size for entry in planned)
    monkeypatch.setattr(hub_files, "_MARGIN", 0)
    free = hub_files.shutil._ntuple_diskusage(10**12, 10**12 - largest - 100, largest + 100)
    monkeypatch.setattr(hub_files.shutil, "disk_usage", lambda path: free)
    hub_server.requests.clear()
    with pytest.raises(HubError, match=r"^kandinsky-2-2: needs 0\.0 GB on the disk of"):
        pull_parts(MODEL, planned, tmp_path)
    assert not hub_server.requests


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_member_arrives_as_one_model(name, members, published, hub_repository, tmp_path, monkeypatch):
    """As published and converted: the same stages, and every file sound."""
    monkeypatch.setattr(catalog, "EMBEDDED", tmp_path / "embedded")
    model = PUBLISHED[name]
    for part in model.parts:
        files = folder_files(members / part.repository.rpartition("/")[2])
        published[part.repository] = hub_repository(files)
    found = []
    for dtype in (None, "bf16"):
        root = tmp_path / str(dtype)
        pull_parts(model, plan_parts(model, [root], dtype), root, dtype)
        entry = catalog.list_stacks([root])[name]
        assert not entry.problems and not verify_stack(entry)
        assert all(found is not None for found in (find_part(part, [root], name) for part in model.parts))
        found.append(set(entry.stages))
    assert found[0] == found[1] == {stage for part in model.parts for stage in part.stages}
    assert [path.name for path in root.iterdir()] == [name] and entry.layout == "native"
