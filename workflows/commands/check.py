"""`unclip check`: whether an installed model is what it should be."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import click

from ...unclip_core.texts import json_text
from ..terminal import echo, echo_lines

EPILOG = """\b
Examples:
  unclip check storybook
  unclip check kandinsky-2-2 -o picture.png
  unclip check karlo-v1-alpha --json > check.json      # for a report
"""
_MARKS = {"ok": "ok", "failed": "FAILED", "skipped": "-"}


@click.command(epilog=EPILOG, short_help="Say whether a model is what it should be.")
@click.argument("name")
@click.option("--dtype", default="auto", show_default=True, help="Precision: auto, fp32, bf16, fp16 or int8.")
@click.option("--no-pictures", is_flag=True, help="Leave out what paints: the slow part, on a processor.")
@click.option("--all", "everything", is_flag=True, help="Also list the sizes of tensors that are as they should be.")
@click.option("--json", "as_json", is_flag=True, help="Machine-readable, with everything.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Keep the painted picture here, as PNG.")
@click.option("--threads", type=click.IntRange(1), help="CPU threads.")
def command(name: str, dtype: str, no_pictures: bool, everything: bool, as_json: bool, output, threads) -> int:
    """Say whether the installed model NAME is what it should be: its weights, and what it does with drawings.

    Takes about a minute, longer for large models without a GPU. Every line has what was measured and the range that a
    sound model has. Exit code 1 if anything is outside of it, with what that means and what to report.
    """
    import torch

    from ...nodes.host import current_host
    from ...unclip_core.checkpoints.catalog import find
    from ...unclip_core.evaluation.check import check_stack
    from ...unclip_core.evaluation.findings import FAILED
    from ...unclip_core.pages import keep_pages
    from ...unclip_core.stack import load_stack

    host = current_host()
    folders = host.model_folders()
    entry = find(name, folders)
    if output is not None and (no_pictures or "decoder" not in entry.stages):
        reason = "--no-pictures leaves it out" if no_pictures else f"{name} has no decoder"
        raise ValueError(f"check: --output {output} is for the painted picture, and {reason}")
    keep_pages()
    torch.set_num_threads(threads or os.cpu_count() or 1)
    stack = load_stack(entry, host.dtype(dtype), device=host.device(), folders=folders)
    findings, pictures = [], []
    for finding in check_stack(stack, not no_pictures, pictures.append):
        findings.append(finding)
        if not as_json and (everything or not finding.minor):
            echo(_line(finding))
    if output is not None and pictures:
        _save(pictures[0], output)
    failed = [finding for finding in findings if finding.status == FAILED]
    if as_json:
        listed = [dataclasses.asdict(finding) for finding in findings]
        about = {"name": name, "folder": str(entry.folder), "layout": entry.layout, "device": str(host.device())}
        echo_lines(json_text({**about, "ok": not failed, "findings": listed}, indent=2))
    else:
        _conclude(name, findings, failed)
    return 1 if failed else 0


def _line(finding) -> str:
    expected = f"  (expected {finding.expected})" if finding.expected else ""
    return f"{_MARKS[finding.status]:7} {finding.stage:14} {finding.check}: {finding.found}{expected}"


def _conclude(name: str, findings: list, failed: list) -> None:
    skipped = sum(finding.status == "skipped" for finding in findings)
    left_out = f", {skipped} not possible" if skipped else ""
    if not failed:
        echo(f"{name}: all {len(findings) - skipped} checks passed{left_out}")
        return
    echo(f"{name}: {len(failed)} of {len(findings) - skipped} checks failed{left_out}. What they mean:")
    for report in dict.fromkeys(f"{finding.stage}: {finding.report}" for finding in failed if finding.report):
        echo(f"  {report}")
    echo(
        "The first failure is the place to look; later ones may follow from it. To report it: what `unclip check "
        f"{name} --json` says, and where the files come from."
    )


def _save(image, path: Path) -> None:
    """IMAGE (1, H, W, 3) as PNG, whole or not at all."""
    from ...unclip_core.training.sheets import grid, save_png

    path.parent.mkdir(parents=True, exist_ok=True)
    save_png(grid(image), path)
