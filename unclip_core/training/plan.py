"""From a preset, a TOML file, a name and weights to begin with: the configs and recipes of every stage, resolved."""

from __future__ import annotations

import ast
import dataclasses
import math
import typing
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..checks import is_whole
from ..clip.words import WordTokenizer, count_words, most_frequent
from ..config import EMBED_STD, STAGES, ClipConfig, ClipTextConfig, StackConfig
from ..presets import KANDINSKY_2_1, KANDINSKY_2_2, PRESETS, STABLE_UNCLIP_H, STABLE_UNCLIP_L
from ..storybook.captions import knows, vocabulary
from .data import Data, StorybookData
from .initial import Initial, family
from .recipes import RECIPES, STORYBOOK_RECIPES, Recipe, fine_tuning
from .settings import changed, check_tables, read_toml, to_toml

_FAMILY = (KANDINSKY_2_1, KANDINSKY_2_2, STABLE_UNCLIP_H, STABLE_UNCLIP_L)
TRAINABLE: dict[str, StackConfig] = {**PRESETS, **{stack.name: stack for stack in _FAMILY}}
DEFAULT_PRESET = "storybook"
SPEAKERS = ("prior", "decoder", "ar_prior")  # the stages that speak one CLIP's embeddings
DEFAULT_WORDS = 4096
BYTE_PAIRS = "bpe"


@dataclass(frozen=True)
class Plan:
    """preset: whose networks and recipes the rest changes. stack: sizes and ids of all stages. recipes: by stage.

    words: the size of a vocabulary that is counted from the captions, or "bpe" for CLIP's own sub-words; None: as it
    is, or DEFAULT_WORDS where there is none for the data. given: what the TOML file says of each stage. adopts: the
    config of the initial weights, and so their CLIP, is taken; else they only begin the preset's.
    """

    preset: str
    stack: StackConfig
    recipes: dict[str, Recipe]
    words: int | str | None = None
    given: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    initial: Initial | None = None
    adopts: bool = False

    def recipe(self, stage: str) -> Recipe:
        """A stage's recipe. Raises ValueError for a preset without one."""
        if stage not in self.recipes:
            raise ValueError(
                f"preset {self.preset} has no recipe for {stage} (it has {', '.join(self.recipes)}); say steps, batch "
                f"and lr in [recipe.{stage}] of a --config, or choose another preset"
            )
        return self.recipes[stage]

    def config(self, stage: str) -> Any:
        """A stage's config. Raises ValueError for a preset without one."""
        found = getattr(self.stack, stage)
        if found is None:
            raise ValueError(f"preset {self.preset} has no {stage}")
        return found

    def with_clip(self, clip: ClipConfig) -> Plan:
        """With this CLIP in the place of the stack's own, and the sizes of the other stages after it."""
        return replace(self, stack=sized_for(replace(self.stack, clip=clip), self.given))

    def with_words_of(self, data: Data) -> Plan:
        """With the vocabulary that a CLIP trained on `data` is to have."""
        clip = self.config("clip")
        keeps = bool(self.given.get("clip", {}).get("vocabulary")) or (self.initial is not None and clip.vocabulary)
        if self.words is None and (keeps or isinstance(data, StorybookData) or clip.vision is None):
            return self
        if self.words == BYTE_PAIRS:
            text = replace(clip.text, vocabulary_size=ClipTextConfig.vocabulary_size)
            return self.with_clip(replace(clip, vocabulary=(), knows="", text=text))
        counts = count_words(caption for row in range(len(data)) for caption in data.all_captions(row))
        words = most_frequent(counts, int(self.words or DEFAULT_WORDS))
        if not words:
            raise ValueError(
                "train clip: no row has a caption, from which CLIP learns; put .txt files beside the pictures"
            )
        said = f"{len(words)} words, most often: {', '.join(words[:60])}"
        return self.with_clip(replace(clip, vocabulary=words, knows=said))

    def to_toml(self) -> str:
        """Everything that was resolved, as a file that --config reads."""
        tables: dict[str, Any] = {"preset": self.preset}
        for stage in STAGES:
            if (config := getattr(self.stack, stage)) is not None:
                tables[stage] = dataclasses.asdict(config)
        tables["recipe"] = {stage: dataclasses.asdict(recipe) for stage, recipe in self.recipes.items()}
        return to_toml(tables)


def make_plan(
    preset: str | None = None,
    *,
    config: Path | None = None,
    name: str | None = None,
    stages: Collection[str] = STAGES,
    words: int | str | None = None,
    initial: Initial | None = None,
    changes: Mapping[str, object] | None = None,
    tuning: Callable[[Recipe], Recipe] = fine_tuning,
) -> Plan:
    """The plan of a run.

    preset: None is the TOML file's, else the family of the initial weights, whose own config is taken then, else
    "storybook". config: a TOML file, see `settings`. name: the new stack's, from which the `stages` to train get ids
    of their own. words: see Plan. initial: weights to begin with. tuning: what then becomes of their family's recipes.
    changes: fields of the recipes of `stages`.

    Raises ValueError for what is unknown or does not fit together.
    """
    where = f"--config {config}"
    tables = read_toml(config) if config else {}
    check_tables(tables, where)
    asked = preset or tables.get("preset")
    chosen = asked or (family(initial, TRAINABLE.values()) if initial else DEFAULT_PRESET)
    stack = preset_stack(chosen)
    if initial and not asked:
        stack = initial.stack(stack)
    given = {stage: dict(tables[stage]) for stage in STAGES if stage in tables}
    counted = given.get("clip", {}).pop("words", None)
    for stage, table in given.items():
        if getattr(stack, stage) is None:
            raise ValueError(f"{where}: preset {chosen} has no {stage}")
        stack = replace(stack, **{stage: changed(getattr(stack, stage), table, f"{where}: {stage}")})
    if name:
        stack = replace(own_ids(stack, given, stages, lambda stage, old: f"{name}/{stage}"), name=name)
    elif initial and not asked:
        stack = own_ids(stack, given, stages, lambda stage, old: f"{old}+")
    recipes = _recipes(chosen, tables.get("recipe", {}), tuning if initial and not asked else None, where)
    for stage in set(stages) & set(recipes):
        recipe = replace(recipes[stage], **(changes or {}))
        if recipe.micro_batch and "micro_batch" not in (
            changes or {}
        ):  # the recipe's own follows a batch that is given
            recipe = replace(recipe, micro_batch=math.gcd(recipe.batch, recipe.micro_batch))
        recipe.check(f"recipe.{stage}")
        recipes[stage] = recipe
    asked_words = _words(words if words is not None else counted)
    adopts = initial is not None and not asked
    return Plan(chosen, sized_for(stack, given), recipes, asked_words, given, initial, adopts)


def _words(asked: Any) -> int | str | None:
    if asked is None or asked == BYTE_PAIRS or (is_whole(asked) and asked > 0):
        return asked
    raise ValueError(f"words {asked!r}: give the size of the vocabulary, or {BYTE_PAIRS!r} for CLIP's own sub-words")


def _recipes(
    preset: str, tables: Mapping[str, Any], tuning: Callable[[Recipe], Recipe] | None, where: str
) -> dict[str, Recipe]:
    """The preset's recipes, tuned, with what the file says of all, and then of each."""
    common = {name: value for name, value in tables.items() if name not in STAGES}
    recipes = {stage: tuning(recipe) if tuning else recipe for stage, recipe in RECIPES[preset].items()}
    for stage in STAGES:
        if not isinstance(own := tables.get(stage, {}), Mapping):
            raise ValueError(f"{where}: recipe.{stage} must be a table, got {own!r}")
        if stage not in recipes and {"steps", "batch", "lr"} <= {*common, *own}:
            recipes[stage] = Recipe(steps=1, batch=1, lr=1.0)
        if stage in recipes:
            recipes[stage] = changed(recipes[stage], {**common, **own}, f"{where}: recipe.{stage}")
    return recipes


def preset_stack(name: str) -> StackConfig:
    """The preset, its small CLIP's vocabulary filled in. Raises ValueError for an unknown one."""
    if name not in TRAINABLE:
        raise ValueError(f"--preset {name!r} is unknown; choose one of {', '.join(TRAINABLE)}")
    stack = TRAINABLE[name]
    if name == "storybook":
        return replace(stack, clip=replace(stack.clip, vocabulary=vocabulary(), knows=knows()))
    return stack


def own_ids(
    stack: StackConfig,
    given: Mapping[str, Mapping[str, Any]],
    stages: Collection[str],
    make: Callable[[str, str], str],
) -> StackConfig:
    """The stack with the ids that `make` gives for (stage, old id) of the `stages`, but where `given` says one. A CLIP
    that is taken as it is keeps its public name."""
    ids = {"clip": "clip_id", "prior": "prior_id", "decoder": "decoder_id", "ar_prior": "ar_prior_id"}
    for stage, id_field in ids.items():
        config = getattr(stack, stage)
        taken = stage == "clip" and config is not None and config.vision is None
        if config is not None and stage in stages and not taken and id_field not in given.get(stage, {}):
            value = make(stage, getattr(config, id_field))
            stack = replace(stack, **{stage: replace(config, **{id_field: value})})
    return stack


def sized_for(stack: StackConfig, given: Mapping[str, Mapping[str, Any]]) -> StackConfig:
    """The stack with every stage after its CLIP's id, widths and vocabulary.

    Raises ValueError where `given` says another size.
    """
    clip = stack.clip
    if clip is None:
        return stack
    if clip.text is not None:
        clip = replace(clip, text_width=clip.text.width)
        stack = replace(stack, clip=clip)
    for stage in SPEAKERS:
        if (config := getattr(stack, stage)) is None:
            continue
        sizes: dict[str, Any] = {"clip_id": clip.clip_id, "clip_dim": clip.embed_dim}
        if getattr(config, "text", "clip") == "clip":  # a decoder may have no text, or a tower of its own
            sizes["text_width"] = clip.text_width
        if stage == "prior":
            sizes["context_length"] = clip.context_length
        for name, value in sizes.items():
            if (said := given.get(stage, {}).get(name, value)) != value:
                raise ValueError(f"{stage}.{name} {said!r}: the CLIP {clip.clip_id} has {value!r}; leave it out")
        if clip.normalised and config.clip_dim != clip.embed_dim and "embed_scale" not in given.get(stage, {}):
            deviation = EMBED_STD if stage == "prior" else 1.0  # App. C; the others read unit variance
            sizes["embed_scale"] = round(deviation * math.sqrt(clip.embed_dim), 2)
        if getattr(config, "text_encoder", None) is not None:
            words = WordTokenizer.of(clip).size if clip.vocabulary else config.text_encoder.vocabulary_size
            sizes["text_encoder"] = replace(
                config.text_encoder, vocabulary_size=words, context_length=clip.context_length
            )
        if stage == "ar_prior":
            sizes |= components(config, min(config.components, clip.embed_dim))
        stack = replace(stack, **{stage: replace(config, **sizes)})
    return stack


def components(config: Any, count: int) -> dict[str, int]:
    """The fields of an ARPriorConfig that keeps `count` components."""
    return {"components": count, "context_length": max(config.context_length, count + 2)}


def recipe_changes(settings: Iterable[str]) -> dict[str, object]:
    """What "field=value" texts say of a Recipe's fields. Raises ValueError for an unknown field or a wrong kind."""
    kinds = typing.get_type_hints(Recipe)
    found: dict[str, object] = {}
    for text in settings:
        name, equals, value = text.partition("=")
        if not equals or name not in kinds:
            raise ValueError(f"--set {text!r}: write FIELD=VALUE with a field of the recipe: {', '.join(kinds)}")
        try:
            parsed = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            parsed = value
        kind = typing.get_origin(kinds[name]) or kinds[name]
        if kind is float and type(parsed) is int:
            parsed = float(parsed)
        if type(parsed) is not kind:
            example = getattr(STORYBOOK_RECIPES["decoder"], name)
            raise ValueError(f"--set {text!r}: {name} is {kind.__name__}, as {example!r}; {value!r} is not")
        found[name] = parsed
    return found
