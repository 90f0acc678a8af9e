"""The editor as a person meets it: `unclip edit` as a process, its page in a headless Chromium (desk.py says which).

Without one these tests are skipped and say so; with UNCLIP_BROWSER_TESTS=required that is a failure. Screenshots go to
.artifacts/editor/.
"""

import base64
import importlib.util
import io
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageSequence
from playwright.sync_api import sync_playwright


def load_module(path):
    specification = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


parts = load_module(Path(__file__).with_name("desk.py"))

# Where a slot of a node is on the screen.
SLOT = """([type, isInput, slot]) => {
  const node = app.graph._nodes.find((node) => node.type === type)
  const [x, y] = node.getConnectionPos(isInput, slot)
  const scale = app.canvas.ds.scale, [left, top] = app.canvas.ds.offset
  const box = app.canvas.canvas.getBoundingClientRect()
  return [box.left + (x + left) * scale, box.top + (y + top) * scale]
}"""
STRIP = "node.widgets.find((widget) => widget.name === 'unclip_filmstrip')?.element"
BARS = "node.widgets.find((widget) => widget.name === 'unclip_bars')?.element"
FAULT = "node.widgets.find((widget) => widget.name === 'unclip_fault')?.element.textContent"
WARNING = "node.widgets.find((widget) => widget.name === 'unclip_warning')?.element"
# Words of an element that a line break tears apart: each has one box per line.
TORN = """(element) => {
  const torn = [], range = document.createRange(), text = element.firstChild
  for (const { 0: word, index } of text.data.matchAll(/[A-Za-z]+/g)) {
    range.setStart(text, index)
    range.setEnd(text, index + word.length)
    if (range.getClientRects().length > 1) torn.push(word)
  }
  return torn
}"""
OURS = "**/extensions/comfyui-unclip/**"


@pytest.fixture(scope="module")
def models(tiny_models, tmp_path_factory):
    """A model folder with `tiny` alone."""
    folder = tmp_path_factory.mktemp("installed")
    shutil.copytree(tiny_models / "tiny", folder / "tiny")
    return folder


@pytest.fixture(scope="module")
def desk(tmp_path_factory, models, repository):
    """The first tab."""
    folder = tmp_path_factory.mktemp("editor")
    pictures = repository / ".artifacts" / "editor"
    pictures.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as play:
        path = parts.chromium(play)
        if path is None:
            reason = "NO BROWSER TEST WAS MADE: no Chromium; apt-get install chromium, or set UNCLIP_CHROMIUM"
            (pytest.fail if os.environ.get("UNCLIP_BROWSER_TESTS") == "required" else pytest.skip)(reason)
        places = {"UNCLIP_MODELS": str(models), "HF_HUB_CACHE": str(folder / "cache")}
        with parts.served(folder, **places) as address:
            browser = parts.launch(play, path)
            context = browser.new_context(viewport={"width": 1600, "height": 900}, locale="en-US")
            made = parts.Desk(context.new_page(), address, folder, pictures)
            made.open()
            yield made
            browser.close()


@pytest.fixture(scope="module")
def plain_tab(desk):
    """A second tab, to which the pack's web extension is not given."""
    page = desk.page.context.new_page()
    page.route(OURS, lambda route: route.fulfill(status=404, body=""))
    tab = parts.Desk(page, desk.address, desk.folder, desk.folder)
    tab.open()
    return tab


@pytest.fixture(scope="module")
def animation(repository):
    """A shipped graph that makes an animation of five frames, each with noise of its own, by the tiny model."""
    graph = read_graph(repository, "interpolate_one_noise")
    turn(graph, "model", 0, "tiny")
    turn(graph, "between the embeddings", 2, 5)
    turn(graph, "one noise for all", 2, 5)
    return graph


def read_graph(repository, name):
    return json.loads((repository / "workflows" / f"{name}.json").read_text("utf-8"))


def turn(graph, title, place, value):
    """Set a widget of a saved graph."""
    next(node for node in graph["nodes"] if node.get("title") == title)["widgets_values"][place] = value


def test_it_opens_with_a_graph_that_runs_here_and_says_what_it_is(desk):
    desk.shoot("open")
    assert desk.page.evaluate("() => localStorage.getItem('unclip-edit.welcome')") == "yes"
    said = desk.page.get_by_text("The unCLIP editor", exact=True)
    if not said.count():  # it goes by itself, on a busy machine before this looks; the Help menu says it again
        desk.page.evaluate("() => app.extensionManager.command.execute('unclip.about')")
    said.first.wait_for()
    assert desk.page.evaluate("() => app.graph._nodes.map((node) => node.type)").count("UnCLIPLoader") == 1
    assert not desk.errors


COLOURS = """(type) => [app.canvas.constructor.link_type_colors[type], app.canvas.default_connection_color_byType[type],
  getComputedStyle(document.body).getPropertyValue('--color-datatype-' + type)]"""


def test_wires_keep_their_colours_when_the_palette_changes(desk):
    page, types = desk.page, ("UNCLIP_CLIP", "UNCLIP_EMBED", "UNCLIP_NOISE")
    before = [page.evaluate(COLOURS, type) for type in types]
    assert all(len(set(colours)) == 1 and colours[0] for colours in before) and len({c[0] for c in before}) == 3
    of_images = page.evaluate(COLOURS, "IMAGE")
    choose = "(palette) => app.extensionManager.setting.set('Comfy.ColorPalette', palette)"
    page.evaluate(choose, "light")
    page.wait_for_function(
        "(old) => app.canvas.default_connection_color_byType['IMAGE'] !== old", arg=of_images[1]
    )  # the palette's own
    assert [page.evaluate(COLOURS, type) for type in types] == before
    page.evaluate(choose, "dark")


def test_a_template_is_opened_changed_and_run_to_its_picture(desk):
    desk.open_template("text_to_image")
    desk.shoot("template")
    desk.set("model", model_name="tiny")
    desk.set("decoder", steps=30)
    desk.look_at("prompt")
    desk.page.locator("textarea.comfy-multiline-input:visible").first.fill("a blue boat on the sea")
    start = desk.press_run()
    kind, data = desk.end_of(start)
    assert kind == "execution_success", data
    run = desk.heard[start:]
    decoder = str(desk.of("decoder", "node.id"))
    steps = [data["value"] for kind, data in run if kind == "progress" and data["node"] == decoder]
    assert steps == sorted(steps) and steps[-1] == 30 and len(steps) > 10
    assert decoder in {data["node_id"] for kind, data in run if kind == "preview"}
    desk.look_at("save")  # a picture is fetched when its node is drawn
    desk.page.wait_for_function("() => app.graph._nodes.find((node) => node.title === 'save').imgs?.[0]?.complete")
    assert desk.of("save", "node.imgs[0].naturalWidth") == 1024
    desk.shoot("picture")
    made = next((desk.folder / "out").glob("*.png"))
    assert "a blue boat on the sea" in Image.open(made).text["prompt"]


def test_cancel_stops_the_sampler_at_once(desk):
    desk.set("decoder", steps=1000, count=32, seed=77)  # longer than a busy machine takes to press a button
    start = desk.press_run()
    desk.wait(lambda kind, data: kind == "progress" and data["max"] == 1000 and data["value"] > 3, start)
    desk.shoot("running")
    desk.page.get_by_role("button", name="Cancel current run").click()
    kind, data = desk.end_of(start)
    assert kind == "execution_interrupted" and data["node_id"] == str(desk.of("decoder", "node.id"))
    desk.set("decoder", steps=3, count=1)
    assert desk.end_of(desk.press_run())[0] == "execution_success"


def test_a_broken_link_is_shown_on_its_node(desk):
    desk.page.evaluate("() => app.graph._nodes.find((node) => node.title === 'decoder').disconnectInput(0)")
    desk.press_run()
    assert desk.answer.status == 400
    decoder = str(desk.of("decoder", "node.id"))
    assert list(desk.answer.json()["node_errors"]) == [decoder]
    desk.page.wait_for_timeout(1500)
    desk.shoot("broken_link")
    assert list(desk.page.evaluate("() => app.lastNodeErrors")) == [decoder]
    assert desk.page.evaluate("() => app.graph._nodes.filter((n) => n.has_errors).map((n) => n.title)") == ["decoder"]
    (error,) = desk.answer.json()["node_errors"][decoder]["errors"]
    assert error["message"] and error["details"] and error["message"] != error["details"]
    assert desk.of("decoder", FAULT) == f"{error['message']}: {error['details']}"


def test_a_made_picture_dropped_on_the_canvas_brings_its_graph(desk):
    desk.close_messages()
    desk.page.evaluate("() => app.graph.clear()")
    made = min((desk.folder / "out").glob("*.png"))
    desk.drop(made)
    desk.page.wait_for_function("() => app.graph._nodes.some((node) => node.title === 'decoder')")
    desk.page.wait_for_timeout(1000)
    desk.shoot("dropped")
    assert desk.of("decoder", "node.widgets.find((widget) => widget.name === 'steps').value") == 30
    assert desk.of("prompt", "node.widgets[0].value") == "a blue boat on the sea"


def test_a_graph_from_an_empty_canvas_by_search(desk):
    page = desk.page
    desk.close_messages()
    page.get_by_role("button", name="Create a new blank workflow").click()
    page.wait_for_function("() => app.graph._nodes.length === 0")
    for words, title, x, kind in (
        ("example picture", "Example Picture", 450, "UnCLIPExamplePicture"),
        ("save image", "Save Image", 950, "SaveImage"),
    ):
        desk.open_search(x, 450)
        page.keyboard.type(words, delay=20)
        page.get_by_text(title).first.wait_for()
        page.wait_for_timeout(1000)
        page.keyboard.press("Enter")
        page.wait_for_function("(kind) => app.graph._nodes.some((node) => node.type === kind)", arg=kind)
        page.wait_for_timeout(500)
        page.mouse.move(x, 350, steps=4)  # recent editors hang the new node on the mouse
        page.mouse.click(x, 350)
        page.wait_for_timeout(500)
    desk.shoot("searched")
    page.mouse.move(*page.evaluate(SLOT, ["UnCLIPExamplePicture", False, 0]))
    page.mouse.down()
    page.mouse.move(*page.evaluate(SLOT, ["SaveImage", True, 0]), steps=8)
    page.mouse.up()
    page.wait_for_function("() => app.graph.links.size === 1 || Object.keys(app.graph.links).length === 1")
    kind, data = desk.end_of(desk.press_run())
    assert kind == "execution_success", data
    page.wait_for_timeout(1000)
    desk.shoot("built")
    assert (desk.folder / "out" / "ComfyUI_00001_.png").is_file()


def test_a_filmstrip_holds_the_frame_that_the_slider_says(desk, animation):
    desk.load(animation)
    kind, data = desk.end_of(desk.press_run())
    assert kind == "execution_success", data
    desk.look_at("animation")
    desk.page.wait_for_function(f"() => app.graph._nodes.some((node) => node.title === 'animation' && {STRIP})")
    (size,) = (node["size"] for node in animation["nodes"] if node["title"] == "animation")
    assert desk.of("animation", "[...node.size]") == size  # it fits into what the editor's preview would take
    assert desk.of("animation", f"{STRIP}.querySelectorAll('canvas').length") == 5
    assert ".webp" in desk.of("animation", f"{STRIP}.querySelector('img').src")  # plays, and nothing else does
    assert desk.of("animation", "!node.imgs && !node.widgets.some((widget) => widget.name.startsWith('$$'))")
    assert desk.of("animation", f"{STRIP}.textContent").endswith("5 · → 0.00 … 1.00")
    assert "widget" not in json.dumps(desk.of("animation", "node.serialize().widgets_values"))
    saved = max((desk.folder / "out" / "unclip").glob("*.webp"))
    with Image.open(saved) as film:
        frames = [
            frame.convert("RGB").resize((112, 112), Image.Resampling.BOX) for frame in ImageSequence.Iterator(film)
        ]
    slider = desk.page.locator("input[type=range]:visible").last
    slider.focus()
    slider.press("ArrowRight")
    slider.press("ArrowLeft")
    for place in (0, 1, 2, 4):
        while int(slider.input_value()) < place:
            slider.press("ArrowRight")
        held = desk.of("animation", f"{STRIP}.querySelector('canvas').toDataURL()")
        with Image.open(io.BytesIO(base64.b64decode(held.split(",")[1]))) as picture:
            shown = np.asarray(picture.convert("RGB").resize((112, 112)), dtype=np.float32)
        far = [np.abs(shown - np.asarray(frame, dtype=np.float32)).mean() for frame in frames[:5]]
        assert int(np.argmin(far)) == place and sorted(far)[1] > 1.5 * min(far)
        assert f"{place + 1} / 5 · → {place / 4:.2f}" in desk.of("animation", f"{STRIP}.textContent")
    desk.shoot("filmstrip")
    desk.of("animation", f"{STRIP}.querySelector('button').click()")
    assert desk.of("animation", f"{STRIP}.querySelectorAll('canvas').length") == 5


def test_the_pages_screenshots_show_the_whole_graph_and_nothing_over_it(desk, repository, animation):
    tool = load_module(repository / "tests" / "tools" / "canvas_screenshots.py")
    with Image.open(io.BytesIO(tool.shoot(desk, animation, "interpolation", run=False))) as picture:
        assert picture.size == (1600, 900)
    shown = desk.page.evaluate("""() => {
      const [left, top, width, height] = app.canvas.visible_area
      return app.graph._nodes.map((node) => node.getBounding()).map(([x, y, w, h]) =>
        [x - left, y - top, left + width - x - w, top + height - y - h])
    }""")
    assert min(min(edges) for edges in shown) >= 0


def test_bars_show_each_label_with_its_share_the_largest_first(desk, repository):
    graph = read_graph(repository, "typographic_attack")
    kept = {"model", "picture", "labels", "chart"}
    graph["nodes"] = [node for node in graph["nodes"] if node.get("title") in kept]
    ids = {node["id"] for node in graph["nodes"]}
    graph["links"] = [link for link in graph["links"] if link[1] in ids and link[3] in ids]
    turn(graph, "model", 0, "tiny")
    turn(graph, "labels", 0, "a red star\na blue boat\nthe sea")
    desk.load(graph)
    start = desk.press_run()
    told = desk.wait(lambda kind, data: kind == "executed" and "probabilities" in (data["output"] or {}), start)[1]
    assert desk.end_of(start)[0] == "execution_success"
    (shares,) = told["output"]["probabilities"]
    assert sum(shares) == pytest.approx(1, abs=1e-3)
    desk.page.wait_for_function(f"() => app.graph._nodes.some((node) => node.title === 'labels' && {BARS})")
    desk.look_at("labels")
    desk.shoot("bars")
    rows = desk.of(
        "labels", f"[...{BARS}.querySelectorAll('[title]')].map((row) => [row.title, row.firstChild.style.width])"
    )
    ranked = sorted(zip(("a red star", "a blue boat", "the sea"), shares, strict=True), key=lambda pair: -pair[1])
    assert [title for title, _ in rows] == [f"{label}: {100 * share:.1f} %" for label, share in ranked]
    widths = [float(width.removesuffix("%")) for _, width in rows]
    assert widths == pytest.approx([100 * share for _, share in ranked], abs=0.01)


def test_a_made_animation_dropped_on_the_canvas_brings_its_graph(desk, animation):
    desk.load(animation)
    desk.set("decoder", steps=29)
    desk.set("animation", filename_prefix="dropped")
    assert desk.end_of(desk.press_run())[0] == "execution_success"
    desk.close_messages()
    desk.page.evaluate("() => app.graph.clear()")
    desk.drop(desk.folder / "out" / "dropped_00001_.webp", "image/webp")
    desk.page.wait_for_function("() => app.graph._nodes.some((node) => node.title === 'decoder')")
    desk.page.wait_for_timeout(1000)
    assert desk.of("decoder", "node.widgets.find((widget) => widget.name === 'steps').value") == 29


def test_without_the_packs_web_extension_everything_still_works(plain_tab, animation):
    plain_tab.load(animation)
    kind, data = plain_tab.end_of(plain_tab.press_run())
    assert kind == "execution_success", data
    plain_tab.look_at("animation")
    shown = "() => app.graph._nodes.find((node) => node.title === 'animation').imgs?.[0]?.complete"
    plain_tab.page.wait_for_function(shown)
    assert plain_tab.of("animation", f"!({STRIP})")
    assert not plain_tab.errors


def test_the_packs_web_extension_leaves_the_editors_functions_as_they_are(desk, plain_tab):
    """Other packs wrap them, in an order that nobody knows."""
    own = "() => [app, app.canvas].map((thing) => Object.keys(thing).filter((name) => thing[name] instanceof Function))"
    assert desk.page.evaluate(own) == plain_tab.page.evaluate(own)


def test_in_chinese_titles_say_what_they_mean_and_are_saved_as_they_came(desk, repository):
    context = desk.page.context.browser.new_context(viewport={"width": 1600, "height": 900}, locale="zh-CN")
    tab = parts.Desk(context.new_page(), desk.address, desk.folder, desk.folder)
    tab.open()
    graph = read_graph(repository, "interpolate_one_noise")
    tab.load(graph)
    titles = "(parts) => parts.map((part) => part.title).sort()"
    assert "decoder 解码器" in tab.page.evaluate(f"() => ({titles})(app.graph._nodes)")
    assert "2 · CLIP 所见" in tab.page.evaluate(f"() => ({titles})(app.graph._groups)")
    saved = tab.page.evaluate("() => app.graph.serialize()")
    for kind in ("nodes", "groups"):
        assert sorted(part["title"] for part in saved[kind]) == sorted(part["title"] for part in graph[kind])
    prompt = tab.page.evaluate(
        "async () => (await app.graphToPrompt()).output"
    )  # what is run, and exported for the API
    named = {str(entry["id"]): entry["title"] for entry in graph["nodes"] if entry["type"] != "MarkdownNote"}
    assert {key: entry["_meta"]["title"] for key, entry in prompt.items()} == named
    fields = tab.of("grid 拼图", "node.widgets.map((widget) => widget.element?.placeholder).filter(Boolean)")
    assert fields == ["行标签", "列标签"]
    context.close()


def test_two_tabs_queue_at_once_and_each_gets_its_own(desk, plain_tab, animation):
    starts = {}
    for number, tab in enumerate((desk, plain_tab)):
        tab.load(animation)
        tab.set("decoder", steps=60)
        tab.set("save", filename_prefix=f"tab{number}")
        tab.set("one noise for all", seed=100 + number)
        starts[tab] = tab.press_run()
    jobs = {tab: tab.answer.json()["prompt_id"] for tab in starts}
    assert len(set(jobs.values())) == 2
    for number, (tab, start) in enumerate(starts.items()):
        assert tab.end_of(start)[0] == "execution_success"
        told = [data for kind, data in tab.heard[start:] if kind in ("executed", "progress", "execution_success")]
        assert {data["prompt_id"] for data in told} == {jobs[tab]}
        save = str(tab.of("save", "node.id"))
        (made,) = next(data["output"]["images"] for data in told if data.get("node") == save and "output" in data)
        assert made["filename"].startswith(f"tab{number}")


def test_a_tab_that_goes_in_the_middle_leaves_its_run_and_its_picture(desk, plain_tab):
    plain_tab.set("decoder", steps=150)
    plain_tab.set("save", filename_prefix="left_alone")
    start = plain_tab.press_run()
    job = plain_tab.answer.json()["prompt_id"]
    plain_tab.wait(lambda kind, data: kind == "progress" and 3 < data["value"] < 100 and data["max"] == 150, start)
    plain_tab.page.close()
    history = f"{desk.address}api/history/{job}"
    for _ in range(600):
        if ended := desk.page.request.get(history).json():
            break
        desk.page.wait_for_timeout(200)
    assert ended[job]["status"]["status_str"] == "success"
    assert (desk.folder / "out" / "left_alone_00001_.png").is_file()


def test_a_model_that_is_not_installed_is_told_on_the_loader_with_how_to_get_it(desk):
    desk.open_template("text_to_image_karlo")
    desk.press_run()
    loader = str(desk.of("model", "node.id"))
    assert desk.answer.status == 400 and list(desk.answer.json()["node_errors"]) == [loader]
    desk.page.wait_for_function(f"() => app.graph._nodes.some((node) => node.title === 'model' && {FAULT})")
    assert "unclip pull karlo-v1-alpha" in desk.of("model", FAULT)
    assert desk.page.evaluate("() => app.graph._nodes.filter((n) => n.has_errors).map((n) => n.title)") == ["model"]
    desk.shoot("not_installed")


def test_a_model_file_that_is_gone_is_told_on_its_node_until_the_next_run(desk, models, animation):
    desk.load(animation)
    (models / "tiny").rename(models / "whole")
    shutil.copytree(models / "whole", models / "tiny", ignore=shutil.ignore_patterns("decoder.*"))
    desk.page.request.post(f"{desk.address}api/free", data={"unload_models": True, "free_memory": True})
    kind, data = desk.end_of(desk.press_run())
    assert (kind, data["node_id"]) == ("execution_error", str(desk.of("decoder", "node.id")))
    desk.page.wait_for_function(f"() => app.graph._nodes.some((node) => node.title === 'decoder' && {FAULT})")
    assert "has no decoder stage" in desk.of("decoder", FAULT)
    desk.look_at("decoder")
    desk.shoot("model_gone")
    shutil.rmtree(models / "tiny")
    (models / "whole").rename(models / "tiny")
    assert desk.end_of(desk.press_run())[0] == "execution_success"
    assert desk.of("decoder", f"!({FAULT})")


def told(desk, title, text=FAULT):
    """Wait for the text on a node, and return it."""
    desk.page.wait_for_function(f"() => app.graph._nodes.some((node) => node.title === '{title}' && {text})")
    return desk.of(title, text)


def test_a_reason_outlives_the_start_of_a_prompt_that_was_queued_before(desk, repository):
    """Of several prompts in the queue one fails, and the next starts at once."""
    desk.load(read_graph(repository, "text_to_image"))
    desk.set("model", model_name="gone")
    desk.press_run()
    reason = told(desk, "model")
    start = len(desk.heard)
    client = desk.page.evaluate("async () => (await import('/scripts/api.js')).api.clientId")
    other = {
        "1": {"class_type": "UnCLIPExamplePicture", "inputs": {"name": "red apple in the snow"}},
        "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
    }
    answer = desk.page.request.post(f"{desk.address}api/prompt", data={"prompt": other, "client_id": client})
    job = answer.json()["prompt_id"]
    desk.wait(lambda kind, data: kind == "execution_success" and data["prompt_id"] == job, start)
    assert "execution_start" in [kind for kind, _ in desk.heard[start:]]
    desk.page.wait_for_timeout(500)
    assert desk.of("model", FAULT) == reason


def test_a_size_that_the_user_gives_a_node_with_a_reason_on_it_stays(desk, repository):
    """Of one that the user leaves alone the old size comes back with the next prompt."""
    desk.load(read_graph(repository, "text_to_image"))
    desk.set("model", model_name="tiny")
    desk.set("decoder", steps=2)
    assert desk.end_of(desk.press_run())[0] == "execution_success"
    assert desk.of("model", f"!({FAULT})")
    plain = desk.of("model", "[...node.size]")
    desk.set("model", model_name="gone")
    desk.press_run()
    told(desk, "model")
    grown = desk.of("model", "[...node.size]")
    desk.page.wait_for_timeout(500)  # a few frames, in which the editor arranges the node
    desk.set("model", model_name="tiny")
    assert desk.end_of(desk.press_run())[0] == "execution_success"
    assert plain[1] < grown[1] and desk.of("model", "[...node.size]") == plain
    desk.set("model", model_name="gone")
    desk.press_run()
    told(desk, "model")
    chosen = [grown[0] + 160, grown[1] + 90]
    desk.of("model", f"node.setSize({chosen})")
    desk.page.wait_for_timeout(500)
    desk.set("model", model_name="tiny")
    assert desk.end_of(desk.press_run())[0] == "execution_success"
    assert desk.of("model", "[...node.size]") == chosen


def test_a_reason_is_shown_on_a_node_inside_a_subgraph(desk):
    desk.set("model", model_name="tiny")
    inner = desk.page.evaluate("""() => {
      const node = app.graph._nodes.find((node) => node.title === 'decoder')
      node.widgets.find((widget) => widget.name === 'sampler').value = 'none of these'
      const { subgraph, node: instance } = app.graph.convertToSubgraph(new Set([node]))
      window.inner = subgraph.nodes.find((node) => node.type === 'UnCLIPDecoderSample')
      return `${instance.id}:${window.inner.id}`
    }""")
    desk.press_run()
    assert list(desk.answer.json()["node_errors"]) == [inner]
    fault = FAULT.replace("node.", "inner.", 1)
    desk.page.wait_for_function(f"() => {fault}")
    assert "none of these" in desk.page.evaluate(f"() => {fault}")
    # Only the box is in view, and it turns red without a word.
    messages = "[...document.querySelectorAll('[data-toast-kind], .p-toast-message')]"
    desk.page.wait_for_function(f"() => {messages}.some((one) => one.textContent.includes('none of these'))")


def test_a_warning_stands_whole_under_its_node_until_the_node_takes_it_back(desk, repository):
    words = "discombobulated", "supercalifragilistic", "neighbourhood"
    graph = read_graph(repository, "text_to_image")
    turn(graph, "model", 0, "tiny")
    turn(graph, "prompt", 0, f"a {' '.join(words)}")
    turn(graph, "decoder", 0, 2)
    desk.load(graph)
    assert desk.end_of(desk.press_run())[0] == "execution_success"
    desk.page.wait_for_timeout(500)
    desk.look_at("prompt")
    desk.shoot("warning")
    text = desk.of("prompt", f"({WARNING})?.textContent")
    assert all(word in text for word in words)
    assert desk.of("prompt", f"({TORN})({WARNING})") == []
    assert desk.of("prompt", "node.widgets.map((widget) => widget.name)") == ["text", "one_per_line", "unclip_warning"]
    desk.set("prompt", text="a red star")
    assert desk.end_of(desk.press_run())[0] == "execution_success"
    assert desk.of("prompt", "node.widgets.map((widget) => widget.name)") == ["text", "one_per_line"]


def test_in_chinese(desk):
    desk.page.evaluate("async () => { await app.extensionManager.setting.set('Comfy.Locale', 'zh') }")
    desk.page.wait_for_timeout(500)
    desk.open()
    desk.page.evaluate("""async () => {
      const graph = await (await fetch('/api/workflow_templates/comfyui-unclip/text_to_image.json')).json()
      for (const node of graph.nodes) delete node.title
      await app.loadGraphData(graph)
    }""")
    desk.page.wait_for_timeout(1500)
    desk.shoot("chinese")
    words = json.loads((desk.page.request.get(f"{desk.address}api/i18n")).text())["zh"]["nodeDefs"][
        "UnCLIPDecoderSample"
    ]
    shown = desk.page.evaluate("""() => {
      const node = app.graph._nodes.find((node) => node.type === 'UnCLIPDecoderSample')
      return [node.title, node.inputs[0].label ?? node.inputs[0].localized_name]
    }""")
    assert shown == [words["display_name"], words["inputs"]["decoder"]["name"]]


def test_nothing_went_wrong_in_the_page_or_the_server(desk):
    assert not desk.errors
    assert not [text for text, file in desk.console if "/extensions/" in file or text.startswith("unclip:")]
    assert "Traceback" not in (desk.folder / "log").read_text()
