"""Pictures, saved graphs, settings and the pack's own files, and what is kept out of them."""

import asyncio
import io
import json
import threading

import aiohttp
import pytest
from PIL import Image

from comfyui_unclip.workflows.server import picture_routes
from comfyui_unclip.workflows.server.user_routes import FIRST_SETTINGS

ROADS_OUT = [
    "../secret.txt",
    "..%2fsecret.txt",
    "a/../../secret.txt",
    "..\\secret.txt",
    "/etc/passwd",
    "%2e%2e/secret.txt",
]


def form(data, name="a.png", **fields):
    """A multipart body with one picture."""
    body = aiohttp.FormData(quote_fields=False)  # browsers send names as they are
    body.add_field("image", data, filename=name, content_type="image/png")
    for key, value in fields.items():
        body.add_field(key, value)
    return body


async def send(client, *arguments, path="/api/upload/image", **fields):
    """(status, JSON or text) of an upload."""
    async with client.post(path, data=form(*arguments, **fields)) as response:
        return response.status, await (response.json() if response.status == 200 else response.text())


# --- uploads ---------------------------------------------------------------------------------------------------------


def test_an_uploaded_picture_is_kept_seen_and_offered(ask, picture, tmp_path):
    async def scenario(client):
        status, sent = await send(client, picture(), "my picture.png")
        assert (status, sent) == (200, {"name": "my picture.png", "subfolder": "", "type": "input"})
        async with client.get("/api/view", params={"filename": sent["name"], "type": "input"}) as response:
            assert await response.read() == picture() and response.content_type == "image/png"
        info = await (await client.get("/api/object_info/LoadImage")).json()
        assert info["LoadImage"]["input"]["required"]["image"][0] == ["my picture.png"]
        assert await (await client.get("/internal/files/input")).json() == ["my picture.png"]

    ask(scenario)
    assert (tmp_path / "input" / "my picture.png").read_bytes() == picture()


def test_the_same_picture_is_one_file_and_another_does_not_replace_it(ask, picture, tmp_path):
    async def scenario(client):
        names = [(await send(client, picture(color=color)))[1]["name"] for color in ("red", "red", "blue", "blue")]
        assert names == ["a.png", "a.png", "a (1).png", "a (1).png"]
        again = await send(client, picture(color="green"), overwrite="true", subfolder="deep/er")
        assert again[1] == {"name": "a.png", "subfolder": "deep/er", "type": "input"}
        assert (await send(client, picture(color="white"), overwrite="true"))[1]["name"] == "a.png"

    ask(scenario)
    assert (tmp_path / "input" / "a.png").read_bytes() == picture(color="white")
    assert not list((tmp_path / "input").rglob("*.part"))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_pictures_of_every_kind_are_taken(ask, picture, kind):
    async def scenario(client):
        assert (await send(client, picture(form=kind), f"x.{kind.lower()}"))[0] == 200

    ask(scenario)


@pytest.mark.parametrize(
    ("name", "data", "status"),
    [
        ("x.txt", b"words", 415),
        ("x.png", b"words", 415),
        ("x.html", None, 415),
        ("x.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>", 415),
        ("x.png", b"", 415),
        ("x.png", b"\x89PNG\r\n\x1a\n" + b"\0" * 50, 415),
        (".png", None, 415),
        ("..png", None, 400),
        ("a\u202eb.png", None, 400),
        ("n" * 200 + ".png", None, 400),
    ],
)
def test_what_is_no_picture_is_refused(ask, picture, tmp_path, name, data, status):
    async def scenario(client):
        found, why = await send(client, picture() if data is None else data, name)
        assert found == status, why

    ask(scenario)
    assert not [path for path in (tmp_path / "input").rglob("*") if path.is_file()]


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_too_many_bytes_or_pixels_are_refused(ask, tmp_path):
    file = io.BytesIO()
    Image.new("1", (20_000, 6_000)).save(file, "PNG")  # 15 kB that would be 360 MB

    async def scenario(client):
        status, why = await send(client, file.getvalue())
        assert status == 413 and "120,000,000 pixels" in why
        assert (await send(client, b"\0" * ((64 << 20) + 1)))[0] == 413
        async with client.post("/api/prompt", data=b" " * ((64 << 20) + 1)) as response:
            assert response.status == 413

    ask(scenario)
    assert not (tmp_path / "input").exists()


def test_uploads_stay_in_input_and_temp(ask, picture, tmp_path):
    async def scenario(client):
        for road in ("../", "/tmp", "a/../../..", "..\\.."):
            assert (await send(client, picture(), subfolder=road))[0] == 403
        assert (await send(client, picture(), type="output"))[0] == 400
        status, sent = await send(client, picture(), "../../up.png")
        assert status == 200 and sent["name"] == "up.png"
        assert (await send(client, picture(), type="temp"))[1]["type"] == "temp"
        async with client.post("/upload/image", data={"image": "no file"}) as response:
            assert response.status == 400

    ask(scenario)
    assert [path.name for path in tmp_path.rglob("*.png")] == ["up.png"]


def test_a_painted_mask_becomes_the_pictures_alpha(ask, picture, tmp_path):
    mask = io.BytesIO()
    Image.new("RGBA", (8, 6), (0, 0, 0, 77)).save(mask, "PNG")

    async def scenario(client):
        await send(client, picture(), "a.png")
        reference = json.dumps({"filename": "a.png", "type": "input"})
        status, sent = await send(
            client, mask.getvalue(), "m.png", path="/upload/mask", original_ref=reference, subfolder="clipspace"
        )
        assert status == 200 and sent["subfolder"] == "clipspace"
        for wrong in ("", "[]", '{"filename": "../secret.txt", "type": "input"}', '{"filename": "none.png"}'):
            assert (await send(client, mask.getvalue(), path="/upload/mask", original_ref=wrong))[0] in (400, 403, 404)
        query = {"filename": "clipspace/m.png [input]"}
        colours = await (await client.get("/view", params={**query, "channel": "rgb"})).read()
        alpha = await (await client.get("/view", params={**query, "channel": "a"})).read()
        assert Image.open(io.BytesIO(colours)).getpixel((0, 0)) == (200, 30, 40)
        assert Image.open(io.BytesIO(alpha)).getpixel((0, 0))[3] == 77

    ask(scenario)


# --- looking ---------------------------------------------------------------------------------------------------------


def test_only_pictures_are_shown_and_the_rest_is_saved_never_run(ask, picture, tmp_path):
    (tmp_path / "out" / "deep").mkdir(parents=True)
    (tmp_path / "out" / "x.html").write_text("<script>alert(1)</script>")
    (tmp_path / "out" / "x.svg").write_text("<svg/>")
    (tmp_path / "out" / "deep" / "x.png").write_bytes(picture())

    async def scenario(client):
        for name in ("x.html", "x.svg"):
            async with client.get("/view", params={"filename": name}) as response:
                assert response.headers["Content-Disposition"] == "attachment"
                assert response.content_type == "application/octet-stream"
        query = {"filename": "x.png", "subfolder": "deep", "preview": "webp;90", "rand": "0.5"}
        async with client.get("/view", params=query) as response:
            assert response.content_type == "image/webp"
        (tmp_path / "out" / "broken.png").write_bytes(b"words")
        assert (await client.get("/view?filename=broken.png&preview=webp")).status == 400
        for query in ("", "filename=x.png&type=models", "filename=%00"):
            assert (await client.get(f"/view?{query}")).status == 400
        assert (await client.get("/view?filename=none.png")).status == 404

    ask(scenario)


def test_previews_have_threads_of_their_own_and_are_dropped_when_the_page_goes(ask, picture, tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "x.png").write_bytes(picture())
    begun, gate = [], threading.Event()
    convert = picture_routes._converted

    def slow(*arguments):
        begun.append(arguments)
        gate.wait(20)
        return convert(*arguments)

    monkeypatch.setattr(picture_routes, "_converted", slow)

    async def scenario(client):
        address = "/view?filename=x.png&preview=webp"
        waiting = [asyncio.create_task(client.get(address)) for _ in range(40)]
        while len(begun) < 2:
            await asyncio.sleep(0.01)
        # The threads of everything else are free: a graph is validated meanwhile.
        prompt = {"1": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "x"}}}
        assert (await asyncio.wait_for(client.post("/prompt", json={"prompt": prompt}), 5)).status == 400
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        await asyncio.sleep(0.2)
        gate.set()
        assert (await client.get(address)).status == 200
        assert len(begun) == 3

    ask(scenario)


def test_a_preview_is_small_and_a_mask_s_picture_is_not(ask, tmp_path):
    (tmp_path / "out").mkdir()
    Image.new("RGB", (3000, 1500), "red").save(tmp_path / "out" / "x.png")

    async def scenario(client):
        for query, size in (
            ("preview=webp;90", (2048, 1024)),
            ("preview=jpeg", (2048, 1024)),
            ("channel=rgb", (3000, 1500)),
        ):
            async with client.get(f"/view?filename=x.png&{query}") as response:
                assert Image.open(io.BytesIO(await response.read())).size == size

    ask(scenario)


@pytest.mark.parametrize("road", ROADS_OUT)
def test_no_road_leads_out_of_the_folders(ask, tmp_path, road):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "link").symlink_to(tmp_path)

    async def scenario(client):
        asked = [f"/view?filename={road}&type={kind}" for kind in ("input", "output", "temp")]
        asked += [
            f"/view?filename=secret.txt&subfolder={road.rpartition('secret')[0]}",
            "/view?filename=link/secret.txt",
        ]
        quoted = road.replace("/", "%2F")
        asked += [f"/userdata/{quoted}", f"/api/userdata?dir={road}", f"/workflow_templates/comfyui-unclip/{quoted}"]
        asked += [
            f"/extensions/comfyui-unclip/{road}",
            f"/extensions/unclip-edit/{quoted}",
            f"/{road.lstrip('/')}",
            f"/assets/{road}",
        ]
        for path in asked:
            async with client.get(aiohttp.client.URL(path, encoded=True)) as response:
                assert response.status in (400, 403, 404), path
                assert "nobody's business" not in await response.text()
        for path in (f"/userdata/{quoted}", f"/userdata/a.json/move/{quoted}"):
            await client.post("/userdata/a.json", data=b"{}")
            async with client.post(aiohttp.client.URL(path, encoded=True), data=b"overwritten") as response:
                assert response.status in (400, 403, 404), path
        async with client.delete(aiohttp.client.URL(f"/userdata/{quoted}", encoded=True)) as response:
            assert response.status in (400, 403, 404)

    ask(scenario)
    assert (tmp_path / "secret.txt").read_text() == "nobody's business"


# --- saved graphs and settings ---------------------------------------------------------------------------------------


def test_graphs_are_saved_listed_moved_and_deleted(ask, tmp_path):
    saved = tmp_path / "user" / "workflows" / "sub" / "图.json"

    async def scenario(client):
        async def call(method, path, data=None):
            async with client.request(method, f"/api/userdata{path}", data=data) as response:
                return response.status, await response.read()

        name = "/workflows%2Fsub%2F%E5%9B%BE.json"
        status, told = await call("POST", f"{name}?overwrite=false&full_info=true", b'{"nodes": []}')
        assert status == 200 and json.loads(told)["path"] == "workflows/sub/图.json"
        assert saved.read_text() == '{"nodes": []}'
        assert (await call("POST", f"{name}?overwrite=false", b"x"))[0] == 409
        assert (await call("POST", name, b"{}"))[0] == 200
        assert await call("GET", name) == (200, b"{}")
        listed = json.loads((await call("GET", "?dir=workflows&recurse=true&full_info=true"))[1])
        assert [(entry["path"], entry["size"]) for entry in listed] == [("sub/图.json", 2)]
        assert json.loads((await call("GET", "?dir=workflows&recurse=true&split=true"))[1]) == [
            ["sub/图.json", "sub", "图.json"]
        ]
        assert json.loads((await call("GET", "?dir=workflows"))[1]) == []
        await call("POST", "/workflows%2Fb.json", b"[]")
        assert (await call("POST", f"{name}/move/workflows%2Fb.json?overwrite=false"))[0] == 409
        assert (await call("POST", f"{name}/move/workflows%2Fc.json?overwrite=false"))[0] == 200
        assert (await call("GET", name))[0] == 404
        assert (await call("DELETE", "/workflows%2Fc.json"))[0] == 204
        assert (await call("DELETE", "/workflows%2Fc.json"))[0] == 404
        assert (await call("GET", "?dir=nowhere"))[0] == 404 and (await call("GET", ""))[0] == 400
        assert (await call("POST", "/workflows", b"x"))[0] == 400  # a folder

    ask(scenario)
    assert sorted(path.name for path in (tmp_path / "user" / "workflows").rglob("*") if path.is_file()) == ["b.json"]


def test_settings_outlive_the_server_and_a_broken_file(ask, tmp_path):
    async def change(client):
        first = await (await client.get("/api/settings")).json()
        assert first == FIRST_SETTINGS
        assert (await client.post("/api/settings", json={"a": 1, "b": [2]})).status == 200
        assert (await client.post("/api/settings/Comfy.Locale", data=b'"zh"')).status == 200
        assert (await client.post("/api/settings/x", data=b"{")).status == 400

    async def look(client):
        kept = await (await client.get("/api/settings")).json()
        assert kept == {**FIRST_SETTINGS, "a": 1, "b": [2], "Comfy.Locale": "zh"}
        assert await (await client.get("/api/settings/Comfy.Locale")).json() == "zh"

    ask(change)
    ask(look)
    (tmp_path / "user" / "comfy.settings.json").write_text("{")

    async def again(client):
        assert (await (await client.get("/settings")).json()) == FIRST_SETTINGS

    ask(again)


# --- the pack --------------------------------------------------------------------------------------------------------


def test_the_pack_is_served_with_templates_help_and_words(ask, repository):
    async def scenario(client):
        async def get(path):
            async with client.get(path) as response:
                assert response.status == 200, path
                return await response.read()

        templates = json.loads(await get("/api/workflow_templates"))
        order = json.loads(await get("/extensions/comfyui-unclip/graphs.json"))  # the page sorts them by it
        assert sorted(templates["comfyui-unclip"]) == sorted(order) and order[0] == "text_to_image"
        graph = await get("/api/workflow_templates/comfyui-unclip/text_to_image.json")
        assert graph == (repository / "workflows" / "text_to_image.json").read_bytes()
        assert (await client.get("/api/workflow_templates/comfyui-unclip/graph.py")).status == 404
        for page in (repository / "web" / "docs").glob("UnCLIPLoader/*.md"):
            assert await get(f"/extensions/comfyui-unclip/docs/UnCLIPLoader/{page.name}") == page.read_bytes()
        words = json.loads(await get("/api/i18n"))
        assert words["zh"]["nodeDefs"]["UnCLIPLoader"]["display_name"] and words["en"]["dataTypes"]["UNCLIP_CLIP"]
        assert json.loads(await get("/templates/index.json")) == []
        extensions = json.loads(await get("/api/extensions"))
        assert "/extensions/unclip-edit/welcome.js" in extensions
        assert all([await get(extension) for extension in extensions])
        ours = {f"/extensions/comfyui-unclip/js/{path.name}" for path in (repository / "web" / "js").glob("*.js")}
        assert ours <= set(extensions)
        stats = json.loads(await get("/api/system_stats"))["system"]
        assert stats["comfyui_version"].startswith("unclip edit")
        assert b"the page" in await get("/")

    ask(scenario)


def test_nodes_are_described_as_the_editor_wants_them(ask, toy_classes):
    class Broken:
        @classmethod
        def INPUT_TYPES(cls):
            raise RuntimeError("no")

    toy_classes["Broken"] = Broken

    async def scenario(client):
        info = await (await client.get("/api/object_info")).json()
        assert "Broken" not in info and info.keys() == toy_classes.keys() - {"Broken"}
        noise = info["Noise"]
        assert noise["input_order"] == {"required": ["seed", "mode", "scale"], "optional": ["on", "extra"]}
        assert noise["input"]["required"]["mode"] == [["soft", "hard"]]
        assert noise["output"] == noise["output_name"] == ["INT", "STRING"] and noise["output_is_list"] == [False] * 2
        assert info["SaveImage"]["output_node"] and info["SaveImage"]["python_module"] == "nodes"
        assert info["SaveImage"]["description"] and info["Words"]["display_name"] == "Words"

    ask(scenario)
