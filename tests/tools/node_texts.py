"""Writes what follows from the nodes' own texts, so that each text stands in one place.

    python tests/tools/node_texts.py

English texts stand in the node classes, Chinese ones in locales/zh/nodeDefs.json. From these come locales/en/, and on
every help page of web/docs the tables of inputs and outputs and the line of graphs, and docs/nodes.md and nodes.zh.md,
which list all nodes. What stands above a help page's tables is written by hand; a node without a page gets one with its
description. Prints the files that it changed, and the Chinese texts that are missing, without which a node gets no
Chinese page.
"""

import json
import re
import sys
from pathlib import Path

from comfyui_unclip.nodes import NODE_CLASS_MAPPINGS
from comfyui_unclip.workflows.document.schema import node_schema

ROOT = Path(__file__).parents[2]
HEADINGS = {"en": ("## Inputs", "## Outputs"), "zh": ("## 输入", "## 输出")}
GRAPHS = {
    "en": ("Graphs (Templates → comfyui-unclip): ", ", ", "."),
    "zh": ("示例工作流（模板 → comfyui-unclip）：", "、", "。"),
}
INDEX = {
    "en": (
        "nodes.md",
        "# Every node",
        "By the menu's order. A node's name leads to its page, the one that the (i) button shows in the editor: "
        "inputs, outputs, and the graphs that have it. *Italic* inputs may stay unlinked. Written by "
        "`tests/tools/node_texts.py`.",
        "| node | what it does | takes | gives |",
        ". ",
    ),
    "zh": (
        "nodes.zh.md",
        "# 所有节点",
        "按菜单的顺序。点节点的名字打开它的页面，与编辑器里 (i) 按钮显示的相同：输入、输出和用到它的工作流。"
        "*斜体*的输入可以不连接。由 `tests/tools/node_texts.py` 写成。",
        "| 节点 | 作用 | 输入 | 输出 |",
        "。",
    ),
}


def main() -> None:
    for entry in missing():
        print(f"locales/zh/nodeDefs.json has no {entry}", file=sys.stderr)
    for path in stale():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(texts()[path], encoding="utf-8")
        print(path.relative_to(ROOT))


def stale() -> list[Path]:
    """The files that do not hold what the script would write."""
    return [path for path, text in texts().items() if not path.is_file() or path.read_text(encoding="utf-8") != text]


def texts() -> dict[Path, str]:
    """What belongs into each file."""
    words = {"en": english_words(), "zh": _read(ROOT / "locales" / "zh" / "nodeDefs.json")}
    folder = ROOT / "locales" / "en"
    files = {
        folder / "nodeDefs.json": _json(words["en"]),
        folder / "main.json": _json(_read(folder / "main.json") | {"nodeCategories": categories()}),
    }
    graphs = graphs_by_node()
    for name, node in NODE_CLASS_MAPPINGS.items():
        for language in HEADINGS:
            if name not in words[language]:
                continue
            path = ROOT / "web" / "docs" / name / f"{language}.md"
            files[path] = help_page(path, node, words[language][name], language, graphs.get(name, []))
    return files | {ROOT / "docs" / INDEX[language][0]: index(words[language], language) for language in INDEX}


def english_words() -> dict[str, dict]:
    """locales/en/nodeDefs.json, of the classes."""
    return {
        name: {
            "display_name": node.TITLE,
            "description": node.DESCRIPTION,
            "inputs": {
                spec.name: {"name": spec.name, "tooltip": spec.options["tooltip"]}
                for spec in node_schema(node).inputs.values()
            },
            "outputs": {
                str(place): {"name": output, "tooltip": tooltip}
                for place, (output, tooltip) in enumerate(zip(node.RETURN_NAMES, node.OUTPUT_TOOLTIPS, strict=True))
            },
        }
        for name, node in NODE_CLASS_MAPPINGS.items()
    }


def missing() -> list[str]:
    """What the English texts have and the Chinese do not."""
    written = _read(ROOT / "locales" / "zh" / "nodeDefs.json")
    found = []
    for name, english in english_words().items():
        if name not in written:
            found.append(name)
            continue
        for part in ("inputs", "outputs"):
            found += [f"{name}.{part}.{key}" for key in english[part] if key not in written[name][part]]
    return found


def categories() -> dict[str, str]:
    """Each part of the nodes' categories, as the editor looks up its translation."""
    return {part: part for node in NODE_CLASS_MAPPINGS.values() for part in node.CATEGORY.split("/")}


def graphs_by_node() -> dict[str, list[str]]:
    """The shipped graphs that have a node, by its class."""
    found: dict[str, list[str]] = {}
    for path in sorted((ROOT / "workflows").glob("*.json")):
        for kind in {node["type"] for node in _read(path)["nodes"]}:
            found.setdefault(kind, []).append(path.stem)
    return found


def help_page(path: Path, node: type, words: dict, language: str, graphs: list[str]) -> str:
    """The page at `path` with its title (English), tables and line of graphs renewed."""
    title = words["display_name"].removesuffix(" (unCLIP)").removesuffix("（unCLIP）")
    page = path.read_text(encoding="utf-8") if path.is_file() else f"# {title}\n\n{words['description']}\n"
    if language == "en":
        page = f"# {title}\n" + page.partition("\n")[2]
    by_hand, after = _without_tables(page, language)
    opening, between, end = GRAPHS[language]
    blocks = [by_hand]
    for heading, part in zip(HEADINGS[language], ("inputs", "outputs"), strict=True):
        if words[part]:
            blocks.append(f"{heading}\n\n| | |\n|---|---|\n" + "\n".join(_rows(list(words[part].values()))))
    blocks += [line for line in after if not line.startswith(opening)]
    if graphs:
        blocks.append(opening + between.join(f"`{name}`" for name in graphs) + end)
    return "\n\n".join(blocks) + "\n"


def index(words: dict[str, dict], language: str) -> str:
    """The page that lists every node, a table for each category: what it does in a sentence, its links and outputs."""
    _, title, opening, heading, stop = INDEX[language]
    translated = _read(ROOT / "locales" / language / "main.json")["nodeCategories"]
    tables: dict[str, list[str]] = {}
    for name, node in NODE_CLASS_MAPPINGS.items():
        if name in words:
            first = words[name]["description"].partition(stop)[0].rstrip(".。") + stop.strip()
            page = f"[{words[name]['display_name']}](../web/docs/{name}/{language}.md)"
            linked = [spec for spec in node_schema(node).inputs.values() if not spec.is_widget]
            labels = [
                (words[name]["inputs"].get(spec.name, {}).get("name", spec.name), spec.required) for spec in linked
            ]
            takes = [label if required else f"*{label}*" for label, required in labels]
            gives = dict.fromkeys(output["name"] for output in words[name]["outputs"].values())
            row = f"| {page} | {first} | {_list(takes)} | {_list(list(gives))} |"
            tables.setdefault(node.CATEGORY, []).append(row)
    blocks = [title, opening]
    for category, rows in tables.items():
        part = category.rpartition("/")[2]
        blocks += [f"## {translated.get(part, part)}", "\n".join((heading, "|---|---|---|---|", *rows))]
    return "\n\n".join(blocks) + "\n"


def _list(labels: list[str]) -> str:
    """Comma-separated; a numbered row of them (image_2 ... image_8) by its ends."""
    numbered = [label for label in labels if re.search(r"[_ ]\d\*?$", label)]
    if len(numbered) > 2:
        rest = [label for label in labels if label not in numbered]
        labels = [*rest, f"{numbered[0]} … {numbered[-1]}"]
    return ", ".join(labels) or "—"


def _without_tables(page: str, language: str) -> tuple[str, list[str]]:
    """(what stands above the tables, the lines below them)."""
    places = [page.index(heading) for heading in HEADINGS[language] if heading in page]
    if not places:
        return page.strip(), []
    below = page[min(places) :].splitlines()
    return page[: min(places)].strip(), [line for line in below if line and not line.startswith(("#", "|"))]


def _rows(items: list[dict]) -> list[str]:
    """A row for each item; those numbered from 2 up (image_2, image_3 ...) share one."""
    numbered = [item for item in items if re.search(r"[_ ]\d$", item["name"])]
    rows = [f"| **{item['name']}** | {item['tooltip']} |" for item in items if item not in numbered]
    if numbered:
        first, last = numbered[0], numbered[-1]
        told = first["tooltip"].replace(first["name"][-1], f"{first['name'][-1]} … {last['name'][-1]}")
        rows.append(f"| **{first['name']}** … **{last['name']}** | {told} |")
    return rows


def _read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def _json(words: dict) -> str:
    return json.dumps(words, ensure_ascii=False, indent=2) + "\n"


if __name__ == "__main__":
    main()
