"""Help pages and their pictures: both languages of every node, complete, and no page or picture left over."""

import re
from pathlib import Path

import pytest
from PIL import Image

from comfyui_unclip.nodes import NODE_CLASS_MAPPINGS

LANGUAGES = ("en", "zh")
every_page = pytest.mark.parametrize(
    ("name", "language"), [(name, language) for name in NODE_CLASS_MAPPINGS for language in LANGUAGES]
)


def read(repository, name, language):
    return (repository / "web" / "docs" / name / f"{language}.md").read_text(encoding="utf-8")


def test_there_is_a_page_per_node_and_language_and_nothing_else(repository):
    pages = {path.relative_to(repository / "web" / "docs").as_posix() for path in repository.glob("web/docs/**/*.md")}
    assert pages == {f"{name}/{language}.md" for name in NODE_CLASS_MAPPINGS for language in LANGUAGES}


def test_texts_that_follow_from_the_nodes_are_up_to_date(load_tool):
    """locales/en, the pages' titles (English), tables and lines of graphs."""
    tool = load_tool("node_texts")
    assert tool.missing() == []
    assert tool.stale() == [], "run python tests/tools/node_texts.py"


@every_page
def test_a_page_says_more_than_its_tables_and_in_its_language(repository, name, language):
    text = read(repository, name, language)
    by_hand = text[: text.index("\n## ")]
    assert text.startswith("# ") and len(by_hand.splitlines()) > 2
    assert bool(re.search(r"[\u4e00-\u9fff]", by_hand)) == (language == "zh")


def test_the_writer_of_texts_sees_what_is_stale_and_keeps_what_is_written_by_hand(load_tool, tmp_path):
    tool, node = load_tool("node_texts"), NODE_CLASS_MAPPINGS["UnCLIPImageGrid"]
    words = tool.english_words()["UnCLIPImageGrid"]
    page = tmp_path / "en.md"
    page.write_text("# Old\n\nBy hand.\n\n## Inputs\n\n| | |\n|---|---|\n| **gone** | x. |\n\nPaper: section 2.\n")
    made = tool.help_page(page, node, words, "en", ["inpaint"])
    assert made.startswith("# Image Grid\n\nBy hand.\n\n## Inputs\n") and "gone" not in made
    assert "| **image_2** … **image_8** | Row 2 … 8. |\n\n## Outputs\n" in made
    assert made.endswith("\n\nPaper: section 2.\n\nGraphs (Templates → comfyui-unclip): `inpaint`.\n")
    page.write_text(made)
    assert tool.help_page(page, node, words, "en", ["inpaint"]) == made
    page.unlink()
    assert tool.help_page(page, node, words, "en", []).startswith(f"# Image Grid\n\n{node.DESCRIPTION}\n\n## Inputs\n")


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_index_names_every_node_once_and_leads_to_its_page(load_tool, repository, language):
    page = repository / "docs" / load_tool("node_texts").INDEX[language][0]
    row = re.compile(r"^\| \[[^]]+\]\(([^)]+)\) \| [^|]+ \| [^|]+ \| [^|]+ \|$", re.MULTILINE)
    links = row.findall(page.read_text(encoding="utf-8"))
    assert sorted(Path(link).parent.name for link in links) == sorted(NODE_CLASS_MAPPINGS)
    assert all((page.parent / link).is_file() for link in links)


def test_the_index_tells_links_that_may_stay_open_and_leaves_widgets_out(load_tool):
    tool = load_tool("node_texts")
    page = tool.index(tool.english_words(), "en")
    (row,) = [line for line in page.splitlines() if line.startswith("| [Upsample 256")]
    assert row.endswith("| upsampler, image | IMAGE |") and "Makes a 64 px picture four times as large" in row
    assert "| image, *image_2* … *image_8* | IMAGE |" in page


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
