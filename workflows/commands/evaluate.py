"""`unclip evaluate`: scores of the embedded stack on held-out scenes, and of any stack on captions of one's own."""

from __future__ import annotations

import json
import os
from contextlib import contextmanager
from pathlib import Path

import click

from ._options import cache_option

GRAPH = Path(__file__).resolve().parent.parent / "text_to_image.json"


@click.group()
def command() -> None:
    """Measure a stack."""


@command.command("storybook")
@click.option("--stack", default="storybook", show_default=True, help="Installed stack to measure.")
@click.option("--samples", default=500, show_default=True, type=click.IntRange(1), help="One-object samples.")
@click.option("--pairs", default=100, show_default=True, type=click.IntRange(0), help="Two-object samples.")
@click.option("--renders", default=100, show_default=True, type=click.IntRange(0), help="Renders per upsampler.")
@click.option("--seed", default=0, show_default=True, type=int)
@cache_option
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path("out/evaluate"), show_default=True)
def storybook(stack, samples, pairs, renders, seed, cache, output) -> None:
    """Judge samples of held-out captions, made with the settings saved in workflows/text_to_image.json."""
    from ...unclip_core.checkpoints.catalog import find
    from ...unclip_core.evaluation import report, storybook
    from ...unclip_core.evaluation.judge import JUDGE_RECIPE, trained_judge
    from ...unclip_core.pages import keep_pages
    from ...unclip_core.stack import load_stack
    from ...unclip_core.training.data import StorybookData

    keep_pages()
    settings = storybook.SampleSettings(**saved_settings(GRAPH))
    output.mkdir(parents=True, exist_ok=True)
    with _progress() as tick:
        data = StorybookData(cache / "storybook", JUDGE_RECIPE.pictures, 1, workers=os.cpu_count() or 1)
        judge = trained_judge(cache / "judge", data, lambda p: tick("train judge", p.step, p.steps))
        handles = load_stack(find(stack), "auto")
        scores, sheet = report.score_stack(handles, judge, settings, samples, pairs, renders, seed, tick)
    click.echo(report.table(scores))  # first: minutes of work must not hang on a folder
    output.mkdir(parents=True, exist_ok=True)
    sheet.save(output / "samples.png")
    (output / "scores.json").write_text(json.dumps(scores, indent=2))
    click.echo(f"wrote {output}/scores.json and {output}/samples.png")


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
@click.option("--dtype", default="auto", show_default=True, help="auto, fp32, bf16 or fp16.")
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
    with _progress() as tick:
        real = scoring.embed_files(handles.clip, paths, tick)
        made = scoring.paint(handles, texts, seed, batch, size == "256", tick)
    found = scoring.score(*made[1:], real)
    for name, number in found.rows():
        click.echo(f"{name}: {number}")
    if found.caution():
        click.echo(found.caution(), err=True)
    output.mkdir(parents=True, exist_ok=True)
    save_png(grid(made[0][:64]), output / "samples.png")
    (output / "scores.json").write_text(json.dumps(dataclasses.asdict(found), indent=2))
    click.echo(f"wrote {output}/scores.json and {output}/samples.png")


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
    found = probes.gates(handles.clip, prior, fitted_on, asked, lambda what: click.echo(f"measuring: {what}", err=True))
    click.echo(probes.table(found, asked))
    (output / "binding.json").write_text(json.dumps(found, indent=2))


@contextmanager
def _progress():
    """A bar, as the function that moves it: (what, done, total)."""
    from tqdm import tqdm

    with tqdm(dynamic_ncols=True) as bar:

        def tick(what: str, done: int, total: int) -> None:
            bar.set_description(what, refresh=False)
            bar.total, bar.n = total, done
            bar.refresh()

        yield tick


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
