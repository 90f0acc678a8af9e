"""What pages say of things that the code can be asked."""

import re

from comfyui_unclip.nodes.builtin import BUILTIN_CLASS_MAPPINGS


def test_the_headless_page_lists_the_nodes_that_a_headless_run_has(repository):
    text = (repository / "docs" / "headless.md").read_text(encoding="utf-8")
    section = text.split("## Which nodes it has")[1].split("\n## ")[0]
    rows = re.findall(r"^\| ([^|`]+) \| (`.*`) \|$", section, re.MULTILINE)
    listed = {}
    for titles, names in rows:
        listed |= dict(zip(re.findall(r"`(\w+)`", names), titles.split(", "), strict=True))
    assert listed == {name: node.TITLE for name, node in BUILTIN_CLASS_MAPPINGS.items()}


def test_pages_that_promise_previews_say_how_comfyui_is_made_to_show_them(repository):
    """It shows none by default."""
    for name, word in (("README.md", "picture so far"), ("README.zh.md", "预览"), ("docs/faq.md", "preview")):
        text = (repository / name).read_text(encoding="utf-8")
        assert word in text and "--preview-method auto" in text, name
