"""A subject that storybook has never seen, learned from 20 pictures: before and after, as pictures and as numbers.

    python tests/benchmarks/subject.py -o out/subject          # minutes on two cores; goes on after Ctrl-C

The subject is the snail of tests/benchmarks/snail.py, the command is `unclip train subject`. The sheets show it in
colours (columns) and on backgrounds (rows) of the 20 pictures and in others: before.png, what the model made of such
captions; after.png. The numbers are cosines of CLIP's embedding of the very scene, drawn, to what the prior gives for
its caption ("prior") and to CLIP's embedding of what is painted ("painted"). kept.png and its numbers: other things,
without (above) and with the LoRA, and the cosine of both.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from comfyui_unclip.unclip_core import load
from comfyui_unclip.unclip_core.stack import Stack
from comfyui_unclip.unclip_core.storybook.captions import BACKGROUND_PHRASES
from comfyui_unclip.workflows.cli import run

SPEC = importlib.util.spec_from_file_location("snail", Path(__file__).with_name("snail.py"))
snail = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(snail)

COLOURS = (*snail.SEEN_COLOURS[:3], *snail.UNSEEN_COLOURS)
BACKGROUNDS = (*snail.SEEN_BACKGROUNDS[:2], *snail.UNSEEN_BACKGROUNDS)
PRESERVED = ("a red mushroom on a meadow", "a blue car in the snow", "a yellow star on a night sky", "a green cup")


def captions(word: str) -> list[str]:
    """Of every colour on every background, row by row."""
    return [f"a {colour} {word} {BACKGROUND_PHRASES[ground][0]}" for ground in BACKGROUNDS for colour in COLOURS]


def paint(stack: Stack, said: list[str], steps: int | None) -> tuple[torch.Tensor, torch.Tensor]:
    """(embeddings of the prior, pictures) of captions."""
    text = stack.clip.encode_text(said)
    embed = stack.prior.sample(text, seed=1)
    return embed.vector, stack.decoder.sample(embed, text, seed=1, steps=steps)


def save_sheet(pictures: torch.Tensor, columns: int, path: Path) -> None:
    rows = [torch.cat(list(row), dim=1) for row in pictures.split(columns)]
    pixels = (torch.cat(rows) * 255).round().to(torch.uint8).numpy()
    image = Image.fromarray(pixels)
    image.resize((image.width * 3, image.height * 3), Image.Resampling.BICUBIC).save(path)


def by_group(cosines: torch.Tensor) -> dict[str, float]:
    """Their means: of seen colours on seen backgrounds, and where one or both are new."""
    groups: dict[str, list[float]] = {}
    for cosine, (ground, colour) in zip(cosines.tolist(), ((g, c) for g in BACKGROUNDS for c in COLOURS), strict=True):
        seen = [colour in snail.SEEN_COLOURS, ground in snail.SEEN_BACKGROUNDS]
        name = {2: "seen", 0: "both new"}.get(sum(seen), "new background" if seen[0] else "new colour")
        groups.setdefault(name, []).append(cosine)
    return {name: sum(values) / len(values) for name, values in groups.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=Path("out/subject"))
    parser.add_argument("--model", default="storybook")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--sampling-steps", type=int, help="of the decoder in the sheets; None: the model's own")
    parser.add_argument("train", nargs="*", help="further arguments of `unclip train subject`, after --")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    out = given.output
    snail.write_pictures(out / "pictures")
    clock, cpu = time.perf_counter(), time.process_time()
    arguments = ["--pictures", out / "pictures", "--word", snail.WORD, "--class", snail.CLASS, "--model", given.model]
    arguments += ["--run", out / "run", "--loras", out / "loras", "--cache", out / "cache", "--threads", given.threads]
    if code := run(["train", "subject", *map(str, arguments), *given.train]):
        sys.exit(code)
    print(f"trained in {time.perf_counter() - clock:.0f} s ({time.process_time() - cpu:.0f} s of processor time)")

    stack = load(given.model, dtype="fp32", device="cpu")
    knows = stack.with_lora(out / "loras" / f"{snail.WORD}.safetensors")
    drawn = [snail.draw_snail(colour, ground) for ground in BACKGROUNDS for colour in COLOURS]
    true = torch.stack([torch.from_numpy(np.array(picture)).float() / 255 for picture in drawn])
    true_z = stack.clip.encode_image(true).vector
    for name, model, word in (("before", stack, snail.CLASS), ("after", knows, snail.WORD)):
        embed, pictures = paint(model, captions(word), given.sampling_steps)
        save_sheet(pictures, len(COLOURS), out / f"{name}.png")
        for kind, vectors in (("prior", embed), ("painted", model.clip.encode_image(pictures).vector)):
            cosines = by_group(torch.cosine_similarity(vectors, true_z))
            print(f"{name:6} {kind:8}", "  ".join(f"{group} {value:.3f}" for group, value in cosines.items()))
    kept = [paint(model, list(PRESERVED), given.sampling_steps)[1] for model in (stack, knows)]
    save_sheet(torch.cat(kept), len(PRESERVED), out / "kept.png")
    seen = [stack.clip.encode_image(pictures).vector for pictures in kept]
    cosines = torch.cosine_similarity(*seen)
    print(
        "kept:", "  ".join(f"{said!r} {cosine:.3f}" for said, cosine in zip(PRESERVED, cosines.tolist(), strict=True))
    )


if __name__ == "__main__":
    main()
