"""Karlo as a diffusers folder: `UnCLIPPipeline` (with a prior) or `UnCLIPImageVariationPipeline` (without), no torch.

Recognised by what model_index.json and the networks' config.json say. Weights may be safetensors or `.bin` pickles,
which are loaded directly, but with `weights_only=True` and only if they hold nothing besides tensors; single or in
shards; in several dtypes. Every size comes from the configs, so reduced networks load as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from ..config import ClipConfig, ScheduleConfig, UpsamplerConfig
from ..presets import KARLO
from ..texts import shown
from .diffusers_clip import clip_config
from .diffusers_configs import SCHEDULERS, decoder_config, prior_config, schedule_config, upsampler_unet, whole
from .header import CheckpointError, StageFile, guarded, read_json, remembered
from .weight_sets import find_weights

LAYOUT = "diffusers"
PIPELINES = ("UnCLIPPipeline", "UnCLIPImageVariationPipeline")
INDEX = "model_index.json"
# Only these classes tell an unCLIP of this kind from any other folder of networks.
_OWN_CLASS = "UnCLIPTextProjModel"


class DiffusersFolder:
    """A diffusers folder's networks by name, with their configs. layout: what its stages are said to be laid out as."""

    def __init__(self, folder: Path, names: tuple[str, ...], layout: str = LAYOUT) -> None:
        self.folder = folder
        self.names = names
        self.layout = layout

    def has(self, name: str) -> bool:
        """Whether the pipeline has this network at all."""
        return name in self.names

    def config(self, name: str, *kinds: str, file: str = "config.json") -> tuple[Path, dict]:
        """Path and content of a network's config. Raises CheckpointError if it is missing or of no class of `kinds`."""
        path = self.folder / name / file
        if not path.is_file():
            raise CheckpointError(f"{path}: missing; download the folder {name!r} of this model again")
        config = read_json(path)
        names = config.get("architectures")
        found = config.get("_class_name") or (names[0] if isinstance(names, list) and names else None)
        if found not in kinds:
            expected = " or ".join(map(repr, kinds))
            raise CheckpointError(f"{path}: class {shown(found)} instead of {expected}; this is another kind of model")
        return path, config

    def towers(self) -> tuple[str, ...]:
        """The folders of CLIP's towers."""
        return tuple(name for name in ("text_encoder", "image_encoder") if self.has(name))

    def schedule(self, name: str) -> ScheduleConfig:
        """A scheduler's config."""
        return schedule_config(*self.config(name, *SCHEDULERS, file="scheduler_config.json"))

    def stage(self, stage: str, config: object, *folders: str, **named: str) -> StageFile:
        """The stage spread over networks, that go by their folders' names, or (named) by others."""
        metadata = {"modelspec.license": licence} if (licence := read_licence(self.folder)) else {}
        parts = {name: name for name in folders} | named
        weights = {part: find_weights(self.folder / folder) for part, folder in parts.items()}
        return StageFile(self.folder / next(iter(parts.values())), stage, config, metadata, self.layout, weights)


def read_folder(folder: Path) -> tuple[dict[str, StageFile], tuple[str, ...]] | None:
    """Stages and problems of a diffusers folder; None for a folder that is none."""
    try:
        with guarded(folder):
            names = _networks(folder)
    except CheckpointError as error:
        return {}, (str(error),)
    if names is None:
        return None
    return read_stages(DiffusersFolder(folder, names), (_clip, _prior, _decoder, _upsampler))


def read_stages(
    source: DiffusersFolder, readers: Iterable[Callable[[DiffusersFolder], StageFile | None]]
) -> tuple[dict[str, StageFile], tuple[str, ...]]:
    """The stages that the readers find, and what is wrong with the others, each once: several read CLIP's config."""
    stages: dict[str, StageFile] = {}
    problems = []
    for read in readers:
        try:
            with guarded(source.folder):
                found = read(source)
        except CheckpointError as error:
            problems.append(str(error))
            continue
        if found is not None:
            stages[found.stage] = found
    return stages, tuple(dict.fromkeys(problems))


def _networks(folder: Path) -> tuple[str, ...] | None:
    """The names of the folder's networks, or None if it is no diffusers folder. CheckpointError: another pipeline."""
    index = folder / INDEX
    if index.is_file():
        listed = read_json(index)
        if listed.get("_class_name") not in PIPELINES:
            kind = shown(listed.get("_class_name")).strip("'")
            known = ", ".join(PIPELINES)
            raise CheckpointError(f"{index}: a {kind}, but comfyui-unclip reads {known} and Kandinsky 2's")
        entries = listed.items()
        return tuple(name for name, value in entries if isinstance(value, list) and value and value[0] is not None)
    configs = sorted(folder.glob("*/config.json"))
    if any(_is_own(path) for path in configs) or _is_prior(folder):
        return tuple(path.name for path in sorted(folder.iterdir()) if path.is_dir())
    return None


def _is_prior(folder: Path) -> bool:
    """Whether it is the half of a Karlo that makes embeddings of captions, which another decoder may read."""
    networks = {path.parent.name for path in folder.glob("*/config.json")}
    return networks == {"prior", "text_encoder"} and (folder / "prior_scheduler").is_dir()


@remembered
def _names_own_class(config: Path) -> bool:
    return _OWN_CLASS in config.read_text(encoding="utf-8", errors="replace")


def _is_own(config: Path) -> bool:
    try:
        return _names_own_class(config)
    except CheckpointError:  # anybody's file, which nobody can read
        return False


def _clip(source: DiffusersFolder) -> StageFile | None:
    parts = source.towers()
    return source.stage("clip", read_clip(source), *parts) if parts else None


def read_clip(source: DiffusersFolder, pictures: str = "feature_extractor") -> ClipConfig:
    """The folder's CLIP, which prior and decoder speak as well. pictures: the folder that says how it reads them."""
    parts = source.towers()
    if not parts:
        raise CheckpointError(f"{source.folder}: has neither a text_encoder nor an image_encoder")
    kinds = {"text_encoder": "CLIPTextModelWithProjection", "image_encoder": "CLIPVisionModelWithProjection"}
    configs = {name: source.config(name, kinds[name]) for name in parts}
    return clip_config(
        configs.get("text_encoder"),
        configs.get("image_encoder"),
        read_settings(source.folder / "tokenizer", "special_tokens_map.json", "tokenizer_config.json"),
        read_settings(source.folder / pictures, "preprocessor_config.json"),
    )


def read_settings(folder: Path, *names: str) -> tuple[Path, dict]:
    """The first of these files that there is, with its content; they may be left out."""
    path = next((folder / name for name in names if (folder / name).is_file()), folder / names[0])
    return path, read_json(path) if path.is_file() else {}


def _prior(source: DiffusersFolder) -> StageFile | None:
    if not source.has("prior"):
        return None
    network, schedule = source.config("prior", "PriorTransformer"), source.schedule("prior_scheduler")
    config = prior_config(*network, schedule, read_clip(source).clip_id)
    return source.stage("prior", config, "prior")


def _decoder(source: DiffusersFolder) -> StageFile | None:
    if not source.has("text_proj") and _is_prior(source.folder):
        return None
    config = decoder_config(
        *source.config("decoder", "UNet2DConditionModel"),
        *source.config("text_proj", _OWN_CLASS),
        source.schedule("decoder_scheduler"),
        read_clip(source).clip_id,
    )
    return source.stage("decoder", config, "decoder", "text_proj")


def _upsampler(source: DiffusersFolder) -> StageFile | None:
    if not source.has("super_res_first"):
        return None
    first_path, first = source.config("super_res_first", "UNet2DModel")
    unet = upsampler_unet(first_path, first, first.get("sample_size"))
    final = source.has("super_res_last")
    if final:
        last_path, last = source.config("super_res_last", "UNet2DModel")
        # Only the first network's sample_size is used, and published folders leave out the last one's.
        if upsampler_unet(last_path, last, first.get("sample_size")) != unet:
            raise CheckpointError(f"{last_path}: another shape than {first_path}, but both enlarge the same picture")
    decoder_path, decoder = source.config("decoder", "UNet2DConditionModel")
    config = UpsamplerConfig(
        low_size=whole(decoder_path, decoder, "sample_size"),
        high_size=unet.image_size,
        final_network=final,
        unet=unet,
        schedule=source.schedule("super_res_scheduler"),
        sampling=KARLO.upsampler_256.sampling,
    )
    return source.stage("upsampler_256", config, "super_res_first", *(("super_res_last",) if final else ()))


def read_licence(folder: Path) -> str | None:
    """The licence that the model card's front matter names."""
    try:
        return _licence(folder / "README.md")
    except CheckpointError:
        return None


@remembered
def _licence(card: Path) -> str | None:
    lines = card.read_text(encoding="utf-8", errors="replace").splitlines()
    if not lines or lines[0].strip() != "---":
        return None
    for line in lines[1:]:
        key, _, value = line.partition(":")
        if line.strip() == "---":
            break
        if key == "license" and value.strip():
            return value.strip().strip("'\"")
    return None
