"""What pages say of things that the code can be asked."""

import re
import shlex
from glob import glob

import click
import pytest
from PIL import Image

from comfyui_unclip.nodes.builtin import BUILTIN_CLASS_MAPPINGS
from comfyui_unclip.nodes.inputs import AS_TUNED
from comfyui_unclip.workflows.cli import run, unclip


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


PAGES = ("README.md", "README.zh.md", "docs/*.md", "CONTRIBUTING.md", "unclip_core/weights/storybook/README.md")
LINES = 160  # of a page: more is another page


def pages(repository):
    return [path for pattern in PAGES for path in sorted(repository.glob(pattern))]


def commands(repository):
    """Every `unclip ...` line of the pages' shell blocks: (page, words after `unclip`)."""
    for page in pages(repository):
        for block in re.findall(r"```(?:bash|bat)\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
            for line in re.sub(r"(?:\\|&&\^?)\n", " && " if "&&" in block else " ", block).splitlines():
                for part in line.split(" && "):
                    words = shlex.split(part.replace("\\", "/"), comments=True)
                    words = words[1:] if words[:1] == ["UNCLIP_EDIT_TOKEN=$(openssl"] else words
                    if words and words[0].rpartition("/")[2] == "unclip":
                        words = words[: words.index(">")] if ">" in words else words
                        yield page.relative_to(repository).as_posix(), words[1:]


@pytest.fixture
def desk(repository, tiny_models, tmp_path, monkeypatch):
    """A folder with what the pages' commands take for granted: the graphs, some files; and the models' names."""
    monkeypatch.setenv("UNCLIP_MODELS", str(tiny_models))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "workflows").symlink_to(repository / "workflows")
    for folder in ("shapes", "photos", "input", "models"):
        (tmp_path / folder).mkdir()
    for name in ("shapes/000.png", "photo.png"):
        Image.new("RGB", (64, 64)).save(tmp_path / name)
    for name, text in {
        "prompts.txt": "a red star\n",
        "jobs.csv": "prompt,seed\na red star,1\n",
        "shapes.toml": 'preset = "storybook"\n',
    }.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def test_every_command_of_the_pages_is_one(repository, desk):
    """Its subcommand, options and the types of their values; `unclip run` is tried further below."""
    tried = 0
    for page, words in commands(repository):
        name, command, rest = "unclip", unclip, words
        while isinstance(command, click.Group) and rest:
            name, command, rest = rest[0], command.get_command(click.Context(command), rest[0]), rest[1:]
        assert command is not None, f"{page}: unclip {shlex.join(words)}"
        try:
            command.make_context(name, list(rest))
        except click.exceptions.Exit:  # --help
            pass
        except click.ClickException as error:
            raise AssertionError(f"{page}: unclip {shlex.join(words)}: {error.format_message()}") from None
        tried += 1
    assert tried > 60


def test_every_run_of_the_pages_passes_all_checks_before_work(repository, desk, capsys):
    """The graphs are here, and every name and value that `-s`, `--sweep` and `--table` set is one of theirs."""
    tried = set()
    for page, words in commands(repository):
        if words[0] not in ("run", "show", "graph", "validate") or {"--server", "--ray", "--nodes"} & set(words):
            continue
        words = [name for word in words for name in (sorted(glob(word)) if "*" in word and glob(word) else [word])]
        words = [word.replace("model=shapes", "model=tiny").replace("graph.json", "text_to_image") for word in words]
        command = tuple(words + (["--dry-run"] if words[0] == "run" and "--dry-run" not in words else []))
        if command not in tried:
            tried.add(command)
            assert run(list(command)) == 0, f"{page}: unclip {shlex.join(words)}\n{capsys.readouterr().err}"
    assert len(tried) > 30


def test_pages_are_short_and_their_links_lead_somewhere(repository):
    for page in pages(repository):
        text = page.read_text(encoding="utf-8")
        name = page.relative_to(repository).as_posix()
        assert text.count("\n") <= LINES, f"{name}: {text.count(chr(10))} lines"
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            if target.startswith(("http://", "https://")):
                continue
            file, _, anchor = target.partition("#")
            there = (page.parent / file) if file else page
            assert there.exists(), f"{name}: {target}"
            if anchor:
                headings = re.findall(r"^#+ (.*)$", there.read_text(encoding="utf-8"), re.MULTILINE)
                slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
                assert anchor in slugs, f"{name}: {target}"


def test_the_page_on_ksampler_habits_has_every_value_that_leaves_a_setting_to_the_model(repository):
    page = (repository / "docs" / "ksampler.md").read_text(encoding="utf-8")
    section = page.split("## 0, -1 and auto")[1].split("\n## ")[0]
    said = {}
    for names, value in re.findall(r"^\| (`.*?) \| (\S+) \|$", section, re.MULTILINE):
        said |= dict.fromkeys(re.findall(r"`(\w+)`", names), value)
    assert said == {name: f"{value:g}" if isinstance(value, float) else str(value) for name, value in AS_TUNED.items()}


def test_both_readmes_and_windows_give_the_same_commands(repository):
    texts = [(repository / name).read_text(encoding="utf-8") for name in ("README.md", "README.zh.md")]
    runs = [{line for line in re.findall(r"unclip (run text_to_image -s .*)", text)} for text in texts]
    assert runs[0] == runs[1] and len(runs[0]) >= 3
    for text in texts:
        posix, windows = (
            re.findall(pattern, text) for pattern in (r"\.venv/bin/(\S+ [^&\n]*)", r"\.venv\\Scripts\\(\S+ [^&\n]*)")
        )
        assert {line.strip() for line in windows} <= {line.replace("'", "").strip() for line in posix}
        assert "5.5 GB" in text and "download.pytorch.org/whl/cpu" in text
