"""A judge's training set, and the handles of the stack `tiny`."""

import dataclasses

import pytest
import torch

from comfyui_unclip.tests import tiny_stack
from comfyui_unclip.unclip_core.checkpoints.catalog import read_stack
from comfyui_unclip.unclip_core.evaluation.context import Budget, Context
from comfyui_unclip.unclip_core.evaluation.judge import HEADS, JUDGE_RECIPE, Judge
from comfyui_unclip.unclip_core.evaluation.reader import READER_RECIPE
from comfyui_unclip.unclip_core.evaluation.siblings import SIBLING_RECIPE, Upbringing
from comfyui_unclip.unclip_core.stack import load_stack
from comfyui_unclip.unclip_core.storybook.captions import vocabulary
from comfyui_unclip.unclip_core.training.data import StorybookData


class Oracle(Judge):
    """Says what it was given, picture after picture."""

    def __init__(self, answers):
        super().__init__()
        self.answers = list(answers)

    def forward(self, x):
        rows = [self.answers.pop(0) for _ in range(len(x))]
        picks = {name: [(*classes, "none").index(row[name]) for row in rows] for name, classes in HEADS.items()}
        return {name: torch.eye(len(HEADS[name]) + 1)[index] for name, index in picks.items()}


@pytest.fixture(scope="session")
def oracle():
    """`Oracle`: a judge that gives these answers."""
    return Oracle


@pytest.fixture(scope="session")
def renders(tmp_path_factory):
    """128 rendered scenes."""
    return StorybookData(tmp_path_factory.mktemp("renders"), 128, seed=1)


@pytest.fixture(scope="session")
def handles(tiny_models):
    """Every stage of the stack `tiny`, in float32."""
    return load_stack(read_stack(tiny_models / "tiny"), "fp32")


@pytest.fixture(scope="session")
def story_models(tiny_models, tmp_path_factory):
    """The stack `tiny`, knowing every word of the storybook, in a model folder: experiments ask for all of them."""
    plain = tiny_stack.config()
    config = dataclasses.replace(
        plain,
        clip=dataclasses.replace(plain.clip, vocabulary=vocabulary(), context_length=32),
        prior=dataclasses.replace(plain.prior, context_length=32),
    )
    folder = tmp_path_factory.mktemp("story")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny_stack, "config", lambda: config)
        tiny_stack.build(folder / "tiny")
    return folder


@pytest.fixture(scope="session")
def short_budget():
    """Training of a step or two for whatever experiments train."""
    small = {"steps": 2, "batch": 8, "warmup": 1, "pictures": 64}
    return Budget(
        dataclasses.replace(JUDGE_RECIPE, **small),
        dataclasses.replace(READER_RECIPE, **small),
        Upbringing(dataclasses.replace(SIBLING_RECIPE, **small), round=1, minutes=0.2, captions=4, steps=2),
    )


@pytest.fixture
def make_context(story_models, short_budget, tmp_path_factory):
    """A context over the stack `tiny`; its folders, if none are given, are shared, so that judges are trained once."""
    shared = tmp_path_factory.getbasetemp() / "experiments"

    def make(run=shared, **changes):
        entry = read_stack(story_models / "tiny")
        handles = load_stack(entry, "fp32")
        return Context(entry, handles, run, shared / "cache", **{"budget": short_budget, **changes})

    return make
