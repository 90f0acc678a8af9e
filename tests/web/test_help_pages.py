"""Help pages and their pictures: both languages of every node, complete, and no page or picture left over."""

import json
import re

import pytest
from PIL import Image

from comfyui_unclip.nodes import NODE_CLASS_MAPPINGS
from comfyui_unclip.workflows.document.schema import node_schema

LANGUAGES = ("en", "zh")
every_page = pytest.mark.parametrize(
    ("name", "language"), [(name, language) for name in NODE_CLASS_MAPPINGS for language in LANGUAGES]
)


def read(repository, name, language):
    return (repository / "web" / "docs" / name / f"{language}.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def graphs_of(repository):
    """Names of the shipped graphs by node class."""
    found = {}
    for path in (repository / "workflows").glob("*.json"):
        for node in json.loads(path.read_text(encoding="utf-8"))["nodes"]:
            found.setdefault(node["type"], set()).add(path.stem)
    return found


def test_there_is_a_page_per_node_and_language_and_nothing_else(repository):
    pages = {path.relative_to(repository / "web" / "docs").as_posix() for path in repository.glob("web/docs/**/*.md")}
    assert pages == {f"{name}/{language}.md" for name in NODE_CLASS_MAPPINGS for language in LANGUAGES}


@every_page
def test_a_page_names_every_input_and_output(repository, name, language):
    text = read(repository, name, language)
    words = json.loads((repository / "locales" / language / "nodeDefs.json").read_text(encoding="utf-8"))[name]
    node = NODE_CLASS_MAPPINGS[name]
    inputs = {key: key if language == "en" else words["inputs"][key]["name"] for key in node_schema(node).inputs}
    table = text[text.index("## ") :]
    # Numbered ones after the second stand in one row, from the first to the last.
    assert not [
        shown for key, shown in inputs.items() if not re.search(r"_[3-7]$", key) and f"**{shown}**" not in table
    ]
    assert all(f"**{output['name']}**" in table for output in words["outputs"].values())
    tooltips = [item["tooltip"] for part in ("inputs", "outputs") for item in words[part].values()]
    rows = re.findall(r"^\| \*\*.*?\| (.*) \|$", table, re.MULTILINE)
    assert [row for row in rows if row not in tooltips and "…" not in table] == [], "stale: not what the tooltip says"


@every_page
def test_a_page_opens_with_the_nodes_title_and_knows_the_graphs_that_use_it(repository, graphs_of, name, language):
    text = read(repository, name, language)
    if language == "en":
        assert text.startswith(f"# {NODE_CLASS_MAPPINGS[name].TITLE.removesuffix(' (unCLIP)')}\n")
    else:
        assert re.search(r"[\u4e00-\u9fff]", text.splitlines()[0])
    line = [line for line in text.splitlines() if line.startswith(("Graphs (", "示例工作流（"))]
    named = set(re.findall(r"`(\w+)`", line[0])) if line else set()
    assert named == graphs_of.get(name, set()), "correct the page's last line"


def test_both_languages_show_the_same_pictures_which_exist_and_are_small(repository):
    shown = {language: set() for language in LANGUAGES}
    for name in NODE_CLASS_MAPPINGS:
        for language in LANGUAGES:
            # The editor asks for a page's pictures beside the pages' folders, whatever the language.
            shown[language] |= set(re.findall(r"!\[[^\]]+\]\(([^)]+)\)", read(repository, name, language)))
    assert shown["en"] == shown["zh"]
    files = {path.name: path for path in (repository / "web" / "docs").glob("*.*")}
    assert set(files) == shown["en"]
    assert sum(path.stat().st_size for path in files.values()) < 1_000_000
    for path in files.values():
        with Image.open(path) as picture:
            assert picture.format == "JPEG" and max(picture.size) <= 640


def test_every_template_has_a_small_thumbnail_and_no_thumbnail_is_left_over(repository):
    graphs = {path.stem for path in (repository / "workflows").glob("*.json")}
    pictures = {path.stem: path for path in (repository / "workflows").glob("*.jpg")}
    assert set(pictures) == graphs, "run tests/tools/thumbnails.py"
    for path in pictures.values():
        with Image.open(path) as picture:
            assert picture.size == (400, 400) and path.stat().st_size <= 40 * 1024
