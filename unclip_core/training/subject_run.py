"""Puts a subject's run together: its pictures and captions, pictures of its class and others that the stack makes, the
task."""

from __future__ import annotations

import logging
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from ..checkpoints.catalog import StackEntry, find, list_stacks, with_clip_towers
from ..checkpoints.loading import load_network
from ..clip.model import Clip
from ..clip.new_words import check_new_word
from ..disk import whole_file, write_text
from ..stack import Stack, load_stack
from .data import Data, Tick
from .embeddings import clip_fingerprint, image_embeddings
from .frozen import frozen_parts
from .initial import stored_state
from .loop import LoopOptions, Progress, train
from .lora import LoraSettings
from .other_things import OtherThings
from .recipes import Recipe
from .sources.opening import open_data, open_index, processors
from .sources.pictures import PictureData
from .subject import SubjectTask
from .subject_data import MARK, Chained, SubjectData

NEEDED = ("clip", "prior", "decoder")
CLASS_SHARE = 2  # pictures to be kept for each of the subject, unless another number is asked for
AT_ONCE = 8  # of them painted in one run
PAINT_STEPS = 25  # of the decoder at most; they are looked at by networks alone
FEW = 4  # pictures of the subject, below which it is warned of

log = logging.getLogger(__name__)

# A network learns a subject by branches at about ten times the rate of a fine-tuning; large ones at a lower one.
SMALL = Recipe(
    steps=600,
    batch=8,
    lr=2e-3,
    warmup=20,
    weight_decay=0.01,
    betas=(0.9, 0.99),
    ema=0.98,
    text_drop=0.3,
    draws=4,
    timesteps="logit_normal",
    validation=0.0,
)
LARGE = Recipe(
    steps=800, batch=4, micro_batch=1, lr=1e-4, warmup=20, weight_decay=0.01, ema=0.99, text_drop=0.1, validation=0.0
)
LARGE_WIDTH = 1024  # of a prior, from which on a stack is a large one


@dataclass(frozen=True)
class SubjectOptions:
    """pictures: a folder. word: new to CLIP. kind: the word for the subject's class, which CLIP knows. model: an
    installed stack's name. settings: None trains the word alone. class_pictures: None is CLASS_SHARE each; 0 for none.
    base_dtype: what all weights that stay are kept in. clip: an installed stack whose CLIP sees the pictures; None: see
    `clip_that_sees`.

    folders: the host's model folders. progress: is told of work before the first step. stop: see `train`.
    """

    pictures: Path
    word: str
    kind: str
    run: Path
    model: str = "storybook"
    settings: LoraSettings | None = field(default_factory=LoraSettings)
    base_dtype: torch.dtype = torch.float32
    class_pictures: int | None = None
    clip: str | None = None
    cache: Path = Path("data")
    folders: tuple[Path, ...] = ()
    loop: LoopOptions = field(default_factory=LoopOptions)
    progress: Tick | None = None
    stop: Callable[[], bool] = lambda: False


def start_subject(options: SubjectOptions, recipe: Recipe) -> Iterator[Progress]:
    """Begin or resume a subject's run; it writes `<run>/<word>.safetensors`. Raises ValueError for what cannot be
    trained, before any work."""
    entry = find(options.model, options.folders)
    if missing := [stage for stage in NEEDED if stage not in entry.stages]:
        raise ValueError(f"--model {options.model} has no {' and no '.join(missing)}; a subject needs all three")
    reads, extra = entry.stages["decoder"].config.text, entry.stages["decoder"].config.extra_input
    if reads not in ("clip", "none") or extra != "none":
        raise ValueError(
            f"--model {options.model}: its decoder reads more than embeddings and CLIP's captions (text {reads!r}, "
            f"extra_input {extra!r}), where a new word of CLIP's says nothing; choose another model"
        )
    stack = load_stack(entry, options.base_dtype, options.loop.device, folders=options.folders)
    clip = stack.clip
    start = first_embedding(clip, options.word, options.kind)
    seer = clip_that_sees(clip, options)
    subject = SubjectData(_open(options), options.word, options.kind)
    others = OtherThings(clip, subject.sentences(), MARK, options.kind)
    data, embeddings = with_class(options, stack, seer, subject, others)
    configs = (entry.stages["prior"].config, entry.stages["decoder"].config)
    settings, decoder = options.settings, entry.stages["decoder"]
    if settings is not None:
        settings = replace(settings, base_dtype=options.base_dtype)
    beside = frozen_parts(decoder.config, partial(stored_state, decoder), seer)
    rest = (data, embeddings, len(subject), others, recipe, settings, beside)
    task = SubjectTask(networks(entry, options.base_dtype), configs, (clip, seer), options.word, start, *rest)
    identity = {
        "stage": "subject",
        "model": [config.prior_id if index == 0 else config.decoder_id for index, config in enumerate(configs)],
        "clip": f"{clip.clip_id} {clip_fingerprint(seer)}",
        "data": data.identity,
        "word": options.word,
        "class": options.kind,
        "lora": None if settings is None else settings.described(),
    }
    loop = options.loop
    return train(task, recipe, options.run, len(subject), identity=identity, options=loop, stop=options.stop)


def is_large(entry: StackEntry) -> bool:
    """Whether a stack is one of the published ones' size. Raises ValueError for one without a prior."""
    if "prior" not in entry.stages:
        raise ValueError(f"--model {entry.name} has no prior; a subject needs clip, prior and decoder")
    return entry.stages["prior"].config.width >= LARGE_WIDTH


def subject_recipe(entry: StackEntry) -> Recipe:
    """The recipe for a stack of this size."""
    return LARGE if is_large(entry) else SMALL


def default_layers(entry: StackEntry) -> str:
    """The layers that learn: small decoders attend too little for attention alone to learn a new shape."""
    return "attention" if is_large(entry) else "all"


def install(made: Path, folder: Path) -> Path:
    """Copy a finished file to where Apply LoRA finds it, in the place of an older one of that name."""
    target = folder / made.name
    with whole_file(target, durable=True, size=made.stat().st_size) as temporary:
        shutil.copyfile(made, temporary)
    return target


def networks(entry: StackEntry, dtype: torch.dtype) -> dict[str, Callable[[], torch.nn.Module]]:
    """Readers of the networks of a stack's prior and decoder."""
    decoder = entry.stages["decoder"]
    part = "network" if decoder.config.autoencoder is not None else ""
    return {
        "prior": lambda: load_network(entry.stages["prior"], dtype),
        "decoder": lambda: load_network(decoder, dtype, part=part),
    }


def clip_that_sees(clip: Clip, options: SubjectOptions) -> Clip:
    """The stack's CLIP if it has an image tower; else that of `options.clip`, or of any installed model with the same
    CLIP (Karlo's text-to-image folder has none). Raises ValueError where there is none."""
    if "image" in clip.config.towers and options.clip is None:
        return clip
    asked = [find(options.clip, options.folders)] if options.clip is not None else None
    entry = with_clip_towers(asked or list_stacks(options.folders).values(), clip.clip_id, {"image"})
    if entry is not None:
        return load_stack(entry, options.base_dtype, options.loop.device, folders=options.folders).clip
    if options.clip is not None:
        raise ValueError(f"--clip {options.clip}: no CLIP {clip.clip_id} with an image tower; give a model that has it")
    raise ValueError(
        f"--model {options.model}: its CLIP {clip.clip_id} has no image tower, which a subject is seen with; install a "
        "model that has one, such as karlo-v1-alpha-image-variations (`unclip pull`)"
    )


def first_embedding(clip: Clip, word: str, kind: str) -> Tensor:
    """Where the new word begins: at the mean of the token embeddings of its class (W,).

    Raises ValueError for a word that is none or is known, and for a class that CLIP does not know.
    """
    try:
        check_new_word(clip.config, word)
    except ValueError as error:
        raise ValueError(f"--word: {error}") from None
    unknown = clip.unknown_words(kind)
    if unknown or not kind.strip():
        knows = clip.config.knows
        said = f"CLIP {clip.clip_id} does not know {', '.join(unknown)}" if unknown else "no word"
        raise ValueError(f"--class {kind!r}: {said}; give a word that it knows{f' ({knows})' if knows else ''}")
    ids, mask = clip.tokenize([kind])
    inner = ids[0, 1 : int(mask[0].sum()) - 1]  # between start and end
    return clip.text_placed.on_device().token_embedding.weight[inner.to(clip.device)].detach().float().mean(0).cpu()


def _open(options: SubjectOptions) -> PictureData:
    """The folder's pictures; of those that cannot be read, a warning names them."""
    folder = options.pictures.expanduser()
    if not folder.is_dir():
        raise ValueError(f"--pictures {folder}: there is no such folder; give one with pictures of the subject")
    try:
        data = PictureData(open_index(str(folder)), options.cache, processors(), options.progress)
    except ValueError as error:
        raise ValueError(str(error).replace("--data", "--pictures", 1)) from None
    if left_out := data.skipped():
        shown = "; ".join(f"{name}: {reason}" for name, reason in left_out)
        log.warning("train subject: %d of %d files are left out (%s)", len(left_out), len(left_out) + len(data), shown)
    if len(data) < FEW:
        log.warning(
            "train subject: fewer than %d pictures (%d); it may learn them, and not what they show", FEW, len(data)
        )
    return data


def with_class(
    options: SubjectOptions, stack: Stack, clip: Clip, subject: SubjectData, others: OtherThings
) -> tuple[Data, Tensor]:
    """The subject's rows and those that are to be kept, and the embeddings of all (N, D) by `clip`."""
    folder = options.cache / "embeddings"
    embeddings = image_embeddings(clip, subject, folder, progress=options.progress)
    wanted = CLASS_SHARE * len(subject) if options.class_pictures is None else options.class_pictures
    if wanted == 0 or options.settings is None:  # a word alone changes nothing that others say
        return subject, embeddings
    paint_class(stack, kept_captions(subject, others, wanted), options.run / "class", options.progress)
    classes = open_data(str(options.run / "class"), options.cache, progress=options.progress)
    kept = image_embeddings(clip, classes, folder, progress=options.progress)
    return Chained(subject, classes), torch.cat([embeddings, kept])


def kept_captions(subject: SubjectData, others: OtherThings, count: int) -> list[str]:
    """What is painted to be kept: every third one the subject's class, the rest other things."""
    said, rng = subject.class_captions(), random.Random(0)
    return [others.draw(rng) if index % 3 else said[index // 3 % len(said)] for index in range(count)]


def paint_class(stack: Stack, captions: Sequence[str], folder: Path, progress: Tick | None = None) -> None:
    """Pictures of the captions by the stack as it is, `0001.png` with `0001.txt` ...; those that are there are kept.

    They are painted AT_ONCE at a time, always the same ones together: a picture is the same to the bit, whenever an
    earlier run was killed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    steps = min(PAINT_STEPS, stack.decoder.config.sampling.steps)
    for first in range(0, len(captions), AT_ONCE):
        rows = range(first, min(first + AT_ONCE, len(captions)))
        missing = [row for row in rows if not (folder / f"{row + 1:04}.txt").exists()]
        if not missing:
            continue
        text = stack.clip.encode_text([captions[row] for row in rows])
        embed = stack.prior.sample(text, seed=first)
        pictures = stack.decoder.sample(embed, text if stack.decoder.reads_text else None, seed=first, steps=steps)
        for row in missing:
            pixels = (pictures[row - first] * 255).round().to(torch.uint8).numpy()
            Image.fromarray(pixels).save(folder / f"{row + 1:04}.png")
            # Written last: a picture with its caption is whole.
            write_text(folder / f"{row + 1:04}.txt", captions[row] + "\n")
        if progress:
            progress("paint the class", rows[-1] + 1, len(captions))
    for handle in (stack.prior, stack.decoder):
        handle.network.unload()
