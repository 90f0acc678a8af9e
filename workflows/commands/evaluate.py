"""`unclip evaluate`: scores of the embedded stack on held-out scenes, and of any stack on captions of one's own."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..document.reading import SHIPPED
from ..terminal import echo, echo_lines
from ._fitting import one_bar
from ._options import cache_option

if TYPE_CHECKING:
    from ...unclip_core.checkpoints.catalog import StackEntry

GRAPH = SHIPPED / "text_to_image.json"


@click.group()
def command() -> None:
    """Measure a stack."""


EPILOG = """\b
Examples:
  unclip evaluate storybook --count 40 --renders 5               # minutes: intervals are wide
  unclip evaluate storybook --stack runs/new/ --against models/storybook/
  unclip evaluate storybook --only one --only two --split test   # once, to report
\b
Stop it at any time: the same command goes on, and samples are made once.
"""


@command.command("storybook", epilog=EPILOG)
@click.option("--stack", default="storybook", show_default=True, help="Installed stack, or a folder of stage files.")
@click.option("--against", metavar="STACK", help="The stack before, measured on the same captions and seeds.")
@click.option("--count", default=500, show_default=True, type=click.IntRange(2), help="Captions of each kind.")
@click.option("--renders", default=100, show_default=True, type=click.IntRange(2), help="Renders per upsampler.")
@click.option("--asked", default=500, show_default=True, type=click.IntRange(20), help="Scenes per question to CLIP.")
@click.option("--fitted-on", default=8000, show_default=True, type=click.IntRange(200), help="Pairs probes learn from.")
@click.option(
    "--split",
    type=click.Choice(["validation", "test"]),
    default="validation",
    show_default=True,
    help="Held-out scenes: to choose by, or to report; openings of test are counted in the cache folder.",
)
@click.option("--only", multiple=True, metavar="PART", help="A part; may be given several times.  [default: all]")
@click.option("--cold-runs", default=3, show_default=True, type=click.IntRange(2), help="Runs that are timed.")
@click.option("--seed", default=0, show_default=True, type=int)
@click.option("--run", "run_folder", type=click.Path(path_type=Path), default=Path("runs/evaluate"), show_default=True)
@cache_option
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path("out/evaluate"), show_default=True)
def storybook(
    stack, against, count, renders, asked, fitted_on, split, only, cold_runs, seed, run_folder, cache, output
) -> None:
    """What a stack trained on storybook scenes is asked to reach, as a table of targets.

    Parts: one, chinese, two, words, upsamplers, lattice, gates, cold. Samples have the settings saved in
    workflows/text_to_image.json.
    """
    from ...unclip_core.evaluation import report
    from ...unclip_core.evaluation.storybook import SampleSettings
    from ...unclip_core.pages import keep_pages
    from ...unclip_core.training.sheets import grid, save_png

    known = [*report.PARTS, "cold"]
    if unknown := [name for name in only if name not in known]:
        raise click.ClickException(f"--only {unknown[0]}: there is no such part; choose of {', '.join(known)}")
    parts = [name for name in known if not only or name in only]
    entries = [_entry("--stack", stack, parts), *([_entry("--against", against, parts)] if against else [])]
    plan = report.Plan(split, count, renders, asked, fitted_on, seed=seed)
    settings = SampleSettings(**saved_settings(GRAPH))
    keep_pages()
    rows, times = [], None
    with one_bar() as (_, tick):
        sides = [report.Side(_context(entry, run_folder, cache, tick), settings, plan) for entry in entries]
        new, old = sides[0], sides[1] if against else None
        if split == "test":
            times = report.opened(cache, new.context.weights, plan)
        for name in parts:
            if name == "cold":
                named = [name for name in (stack, against) if name]
                seconds = _cold_runs(list(zip(named, entries, strict=True)), cold_runs, tick)
                rows += report.cold(*seconds, *([] if old else [None]))
            else:
                rows += report.PARTS[name](new, old)
        sheets = {kind: new.samples(kind)[:64] for kind in ("one", "two", "word") if _sampled(kind) in parts}
        if "one" in sheets and "upsamplers" in parts:
            low = sheets["one"][: plan.large]
            sheets["large"] = new.large(low)
    told = [report.headline(plan, new.context, against, times), report.of_other_code(sides), report.table(rows)]
    text = "\n\n".join(filter(None, told)) + "\n"
    echo_lines(text)  # first: hours of work must not hang on a folder
    output.mkdir(parents=True, exist_ok=True)
    for kind, pictures in sheets.items():
        save_png(grid(pictures, 4 if kind == "large" else 8), output / f"{kind}.png")
    (output / "report.md").write_text(text, encoding="utf-8")
    (output / "scores.json").write_text(json.dumps(report.as_json(plan, new.context, rows, times), indent=1))
    echo(f"wrote {output}/report.md, scores.json and {len(sheets)} sheets of samples")


def _sampled(kind: str) -> str:
    """The part that a kind of samples belongs to."""
    return {"word": "words"}.get(kind, kind)


NEEDED = {
    **dict.fromkeys(("one", "chinese", "two", "words", "cold"), ("clip", "prior", "decoder")),
    "upsamplers": ("clip", "decoder", "upsampler_256", "upsampler_1024"),
    "lattice": ("clip", "prior", "decoder", "upsampler_256"),
    "gates": ("clip",),
}


def _entry(option: str, stack: str, parts: list[str]):
    """The stack that an option names, installed or a folder; it must have what the parts need."""
    from ...nodes.host import current_host
    from ...unclip_core.checkpoints.catalog import find, read_stack

    if os.sep in stack and not Path(stack).is_dir():
        raise click.ClickException(f"{option} {stack}: there is no such folder")
    entry = read_stack(Path(stack)) if os.sep in stack else find(stack, current_host().model_folders())
    if entry is None:
        raise click.ClickException(f"{option} {stack}: the folder holds no stack; give one with .safetensors per stage")
    for part in parts:
        if lacking := [stage for stage in NEEDED[part] if stage not in entry.stages]:
            fits = [name for name in parts if all(stage in entry.stages for stage in NEEDED[name])]
            hint = " ".join(f"--only {name}" for name in fits) or "no part can be measured without a CLIP"
            raise click.ClickException(f"{option} {stack}: it has no {lacking[0]}, which part {part!r} needs; {hint}")
    return entry


def _context(entry, run_folder: Path, cache: Path, tick):
    from ...unclip_core.evaluation.context import Context
    from ...unclip_core.stack import load_stack

    return Context(entry, load_stack(entry, "auto"), run_folder, cache, tick=tick)


def _cold_runs(stacks: list[tuple[str, StackEntry]], count: int, tick) -> list[list[float]]:
    """Seconds of `unclip run workflows/text_to_image.json` as processes of their own, each stack in turn.

    One run of each before is not counted: it brings the files into the system's memory, for both alike.
    """
    import subprocess
    import sys
    import tempfile
    import time

    module = f"{__package__.rpartition('.')[0]}.cli"
    found: list[list[float]] = [[] for _ in stacks]
    for number in range(count + 1):
        for (stack, entry), seconds in zip(stacks, found, strict=True):
            with tempfile.TemporaryDirectory() as folder:
                name, places = _findable(stack, entry, Path(folder))
                command = [sys.executable, "-m", module, "run", str(GRAPH), "-q", "-o", f"{folder}/out"]
                started = time.perf_counter()
                done = subprocess.run(
                    [*command, "-s", f"model.model_name={name}"], env={**os.environ, **places}, capture_output=True,
                    text=True, check=False,
                )  # fmt: skip
                spent = time.perf_counter() - started
            if done.returncode:
                last = (done.stderr.strip().splitlines() or ["no message"])[-1]
                raise click.ClickException(f"cold run of {stack}: {last}")
            if number:
                seconds.append(spent)
        tick("cold runs", number, count)
    return found


def _findable(stack: str, entry: StackEntry, folder: Path) -> tuple[str, dict[str, str]]:
    """A name that `unclip run` finds a stack by, and the environment in which it does: a stack that is only a folder
    is linked into a model folder, under a name that no other has."""
    from ...unclip_core.checkpoints.catalog import ENVIRONMENT

    if os.sep not in stack:
        return entry.name, {}
    (folder / "models").mkdir()
    (folder / "models" / "stack-under-test").symlink_to(Path(stack).resolve(), target_is_directory=True)
    places = [str(folder / "models"), *filter(None, [os.environ.get(ENVIRONMENT)])]
    return "stack-under-test", {ENVIRONMENT: os.pathsep.join(places)}


@command.command("samples")
@click.option("--model", required=True, help="Installed stack to measure.")
@click.option(
    "--captions", required=True, type=click.Path(path_type=Path, exists=True, dir_okay=False), help="One a line."
)
@click.option(
    "--reference", required=True, type=click.Path(path_type=Path, exists=True, file_okay=False), help="Real pictures."
)
@click.option("--limit", type=click.IntRange(4), help="Use only so many captions.")
@click.option("--size", type=click.Choice(["64", "256"]), default="64", show_default=True, help="Pixels to score at.")
@click.option("--seed", default=0, show_default=True, type=int)
@click.option("--batch", default=8, show_default=True, type=click.IntRange(1))
@click.option("--dtype", default="auto", show_default=True, help="auto, fp32, bf16, fp16 or int8.")
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path("out/samples"), show_default=True)
def samples(model, captions, reference, limit, size, seed, batch, dtype, output) -> None:
    """CLIP score, and Fréchet distance, precision and recall on CLIP features, of samples with the stack's settings.

    The judge is the stack's own CLIP: numbers of stacks with different CLIPs do not compare.
    """
    import dataclasses

    from ...nodes.host import current_host
    from ...unclip_core.checkpoints.catalog import find
    from ...unclip_core.evaluation import samples as scoring
    from ...unclip_core.pages import keep_pages
    from ...unclip_core.stack import load_stack
    from ...unclip_core.training.sheets import grid, save_png

    texts, paths = scoring.read_captions(captions)[:limit], scoring.reference_paths(reference)
    folders = current_host().model_folders()
    handles = load_stack(find(model, folders), dtype, folders=folders)
    keep_pages()
    with one_bar() as (_, tick):
        real = scoring.embed_files(handles.clip, paths, tick)
        made = scoring.paint(handles, texts, seed, batch, size == "256", tick)
    found = scoring.score(*made[1:], real)
    for name, number in found.rows():
        echo(f"{name}: {number}")
    if found.caution():
        echo(found.caution(), err=True)
    output.mkdir(parents=True, exist_ok=True)
    save_png(grid(made[0][:64]), output / "samples.png")
    (output / "scores.json").write_text(json.dumps(dataclasses.asdict(found), indent=2))
    echo(f"wrote {output}/scores.json and {output}/samples.png")


@command.command("binding")
@click.option("--stack", default="storybook", show_default=True, help="Installed stack, or a folder of stage files.")
@click.option("--asked", default=500, show_default=True, type=click.IntRange(20), help="Held-out scenes per question.")
@click.option("--fitted-on", default=8000, show_default=True, type=click.IntRange(200), help="Pairs probes learn from.")
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path("out/binding"), show_default=True)
def binding(stack, asked, fitted_on, output) -> None:
    """Whether CLIP's embeddings, and the prior's, say which of two things is which, where, and in what colour.

    Needs only the stack's CLIP; its prior is asked where there is one.
    """
    from ...unclip_core.checkpoints.catalog import find, read_stack
    from ...unclip_core.evaluation import probes
    from ...unclip_core.stack import load_stack

    entry = read_stack(Path(stack)) if os.sep in stack else find(stack)
    if entry is None or "clip" not in entry.stages:
        raise click.ClickException(f"--stack {stack}: it has no CLIP; give a folder with a clip.safetensors")
    handles = load_stack(entry, "auto")
    prior = handles.prior if "prior" in entry.stages else None
    output.mkdir(parents=True, exist_ok=True)
    found = probes.gates(handles.clip, prior, fitted_on, asked, lambda what: echo(f"measuring: {what}", err=True))
    echo_lines(probes.table(found, asked))
    (output / "binding.json").write_text(json.dumps(found, indent=2))


def saved_settings(graph: Path) -> dict[str, dict]:
    """The prior's and decoder's settings as the saved graph has them: {"prior": {...}, "decoder": {...}}.

    Arguments of the stages' `sample`: what the graph leaves to the model is None. Raises WorkflowError for what is no
    sound graph.
    """
    from ...nodes.inputs import as_tuned
    from ..checks.validation import to_checked_prompt
    from ..document.graph import WorkflowError
    from ..document.reading import load_workflow
    from ..document.schema import node_classes

    wanted = {
        "UnCLIPDiffusionPrior": ("prior", ("steps", "guidance_scale", "candidates", "sampler")),
        "UnCLIPDecoderSample": ("decoder", ("steps", "guidance_scale", "eta", "sampler")),
    }
    prompt, problems = to_checked_prompt(load_workflow(graph), node_classes())
    if problems:
        raise WorkflowError(problems)
    found: dict[str, dict] = {}
    for node in prompt.values():
        if node["class_type"] in wanted:
            stage, names = wanted[node["class_type"]]
            found[stage] = as_tuned(**{name: node["inputs"][name] for name in names})
    return found
