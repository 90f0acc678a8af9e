"""From preset, TOML file, name and initial weights to the configs and recipes of a run."""

import dataclasses
import json
import math

import pytest
import torch

from comfyui_unclip.tests.stage_file import load_stage
from comfyui_unclip.unclip_core.checkpoints.native import save_stage
from comfyui_unclip.unclip_core.clip.words import WordTokenizer
from comfyui_unclip.unclip_core.config import ScheduleConfig
from comfyui_unclip.unclip_core.models.build import build_network
from comfyui_unclip.unclip_core.presets import KARLO, PAPER, STORYBOOK
from comfyui_unclip.unclip_core.training import plan as plans
from comfyui_unclip.unclip_core.training.initial import open_initial
from comfyui_unclip.unclip_core.training.plan import make_plan, recipe_changes
from comfyui_unclip.unclip_core.training.recipes import FINE_TUNING_BATCH, KARLO_RECIPES, STORYBOOK_RECIPES
from comfyui_unclip.unclip_core.training.settings import to_toml


@pytest.fixture(autouse=True)
def _tiny_preset(tiny_configs, monkeypatch):
    monkeypatch.setitem(plans.TRAINABLE, "tiny", tiny_configs)
    monkeypatch.setitem(plans.RECIPES, "tiny", STORYBOOK_RECIPES)


@pytest.fixture
def toml(tmp_path):
    """Writes a file and returns its path."""

    def write(text, name="mine.toml"):
        (tmp_path / name).write_text(text, encoding="utf-8")
        return tmp_path / name

    return write


def test_table_3_is_the_papers_recipe():
    """Appendix C: batch, iterations, rate, weight decay, Adam's beta 2 and epsilon, EMA decay."""
    table = {
        "ar_prior": (4096, 1_000_000, 1.6e-4, 4.0e-2, 0.91, 1e-10, 0.999),
        "prior": (4096, 600_000, 1.1e-4, 6.0e-2, 0.96, 1e-6, 0.9999),
        "decoder": (2048, 800_000, 1.2e-4, 0.0, 0.999, 1e-8, 0.9999),
        "upsampler_256": (1024, 1_000_000, 1.2e-4, 0.0, 0.999, 1e-8, 0.9999),
        "upsampler_1024": (512, 1_000_000, 1.0e-4, 0.0, 0.999, 1e-8, 0.9999),
    }
    plan = make_plan("paper")
    assert plan.recipes.keys() == table.keys()
    for stage, row in table.items():
        r = plan.recipe(stage)
        assert (r.batch, r.steps, r.lr, r.weight_decay, r.betas[1], r.adam_eps, r.ema) == row
        assert r.betas[0] == 0.9 and (r.embed_drop, r.text_drop, r.prior_drop, r.crop_fraction) == (0.1, 0.5, 0.1, 4)
    with pytest.raises(ValueError, match="preset paper has no recipe for clip"):
        plan.recipe("clip")


def test_every_preset_brings_recipes_of_its_own():
    assert make_plan("karlo-v1-alpha").recipe("decoder").text_drop == 0.3
    assert make_plan("karlo-v1-alpha").recipe("prior").prior_drop == 0.2
    assert make_plan("storybook").recipe("decoder") == STORYBOOK_RECIPES["decoder"]
    assert make_plan("kandinsky-2-2").recipe("prior").lr == 1.1e-4
    with pytest.raises(ValueError, match="--preset 'nope' is unknown; choose one of paper, karlo"):
        make_plan("nope")


def test_a_fine_tune_of_karlos_decoder_gets_a_tenth_of_its_own_rate_and_its_own_config(tmp_path):
    """A reduced decoder of Karlo's kind, as a stranger's file: an eps network stays one."""
    unet = dataclasses.replace(KARLO.decoder.unet, channels=32, channel_mult=(1, 2), depth=1, context_width=32,
                               attention_resolutions=(32,), head_channels=16, norm_groups=8)  # fmt: skip
    config = dataclasses.replace(KARLO.decoder, unet=unet, clip_dim=16, text_width=12)
    save_stage(tmp_path / "decoder.safetensors", build_network("decoder", config).state_dict(), "decoder", config)
    initial = open_initial(str(tmp_path / "decoder.safetensors"), "decoder")
    plan = make_plan(initial=initial, stages=["decoder"])
    assert plan.preset == "karlo-v1-alpha" and plan.recipe("decoder").lr == pytest.approx(1.2e-5)
    assert plan.recipe("decoder").batch == FINE_TUNING_BATCH and not plan.recipe("decoder").decay
    assert plan.recipe("decoder").text_drop == KARLO_RECIPES["decoder"].text_drop
    assert plan.stack.decoder.unet == unet and plan.stack.decoder.schedule.prediction == "eps"
    assert plan.stack.decoder.decoder_id == "karlo-v1-alpha/decoder+"  # trained on, it is another one
    with pytest.raises(ValueError, match=r"--init .* predicts eps on .* but this run would train v on cosine"):
        other = make_plan("storybook", initial=initial, stages=["decoder"])
        initial.state_for(other.stack.decoder, dict)


def test_initial_weights_are_found_by_model_file_run_and_folder(tiny_stack, tiny_models, tmp_path):
    tiny = tiny_models / "tiny"
    ways = ("tiny:decoder", "tiny", str(tiny), str(tiny / "decoder.safetensors"))
    _, config, state = load_stage(tiny / "decoder.safetensors")
    for way in ways:
        found = open_initial(way, "decoder")
        assert found.config == config and found.state_for(config, lambda: state).keys() == state.keys()
    assert open_initial("tiny:decoder", "decoder").clip.config.clip_id == "tiny-1"
    made_of = {"stage": "decoder", "config": dataclasses.asdict(config), "preset": "tiny"}
    average = {"null_token": torch.full_like(state["null_token"], 7.0)}
    kept = {"step": 1, "network": state, "ema": average, "optimiser": {}, "made_of": json.dumps(made_of)}
    torch.save(kept, tmp_path / "checkpoint.pt")
    run = open_initial(str(tmp_path), "decoder")
    assert run.config == config and (run.read()["null_token"] == 7.0).all()
    assert make_plan(initial=run, stages=["decoder"]).preset == "tiny"
    for where, said in (
        (str(tiny / "prior.safetensors"), "holds a prior, not a decoder"),
        ("tiny:prior", "is a prior, not a decoder"),
        ("nowhere", "no model 'nowhere'"),
        (str(tmp_path.parent), "no stage, no run and no model"),
    ):
        with pytest.raises(ValueError, match=said):
            open_initial(where, "decoder")


def test_a_file_changes_any_size_and_any_number(toml):
    plan = make_plan(
        config=toml("""
        preset = "tiny"
        [clip]
        embed_dim = 48
        words = 300
        [clip.text]
        width = 32
        [prior]
        depth = 2
        [prior.sampling]
        steps = 7
        [decoder.unet]
        channels = 24
        norm_groups = 8
        [decoder.schedule]
        x0_clamp = "none"
        [recipe]
        batch = 16
        [recipe.decoder]
        steps = 123
        betas = [0.9, 0.98]
    """)
    )
    assert plan.preset == "tiny" and plan.words == 300
    stack = plan.stack
    assert (stack.prior.depth, stack.prior.sampling.steps, stack.decoder.unet.channels) == (2, 7, 24)
    assert stack.decoder.schedule.x0_clamp is None
    # What follows from the CLIP follows it.
    assert stack.clip.text_width == stack.prior.text_width == stack.decoder.text_width == 32
    assert stack.prior.clip_dim == stack.decoder.clip_dim == stack.ar_prior.clip_dim == 48
    assert stack.prior.embed_scale == pytest.approx(0.5375 * math.sqrt(48), abs=0.01)
    assert stack.decoder.embed_scale == pytest.approx(math.sqrt(48), abs=0.01)
    assert {recipe.batch for recipe in plan.recipes.values()} == {16}
    assert (plan.recipe("decoder").steps, plan.recipe("decoder").betas) == (123, (0.9, 0.98))
    assert plan.recipe("prior").steps == STORYBOOK_RECIPES["prior"].steps


def test_a_command_line_wins_over_the_file_and_the_file_over_the_preset(toml):
    file = toml("[recipe]\nsteps = 5\nbatch = 6\n")
    plan = make_plan("tiny", config=file, stages=["prior"], changes={"batch": 7})
    assert (plan.recipe("prior").steps, plan.recipe("prior").batch) == (5, 7)
    assert plan.recipe("decoder").batch == 6


def test_a_kandinsky_without_text_and_a_paper_stack_take_their_sizes_from_their_clip():
    for name in ("paper", "kandinsky-2-2", "karlo-v1-alpha", "storybook"):
        plan = make_plan(name)
        known = plans.preset_stack(name)
        assert dataclasses.replace(plan.stack.decoder, text_encoder=None) == dataclasses.replace(
            known.decoder, text_encoder=None
        )
        assert plan.stack.prior == dataclasses.replace(known.prior, context_length=known.clip.context_length)
    assert make_plan("paper").stack.prior.embed_scale == PAPER.prior.embed_scale == 17.2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[decoder.unet]\nchanels = 3", r"decoder.unet.chanels: there is no such field; choose one of image_size"),
        ("[decoder.unet]\nchannels = 'many'", r"decoder.unet.channels: expected int, got 'many'"),
        ("[painter]\nx = 1", r"'painter' is unknown; choose one of preset, recipe, clip"),
        ("[recipe.decoder]\nstep = 3", r"recipe.decoder.step: there is no such field"),
        ("[recipe]\nstep = 3", r"recipe.clip.step: there is no such field"),
        ("decoder = 3", r"decoder must be a table"),
        ("[decoder]\nunet = 3", r"decoder.unet: expected an object, got 3"),
        ("[decoder]\nclip_dim = 5", r"decoder.clip_dim 5: the CLIP tiny-1 has 24; leave it out"),
        ("[clip]\nwords = 'many'", r"words 'many': give the size of the vocabulary, or 'bpe'"),
        ("broken", r"no TOML"),
        ("preset = 'nope'", r"--preset 'nope' is unknown"),
    ],
)
def test_what_a_file_cannot_say_is_named(text, said, toml):
    with pytest.raises(ValueError, match=said):
        make_plan(None if "preset" in text else "tiny", config=toml(text))
    with pytest.raises(ValueError, match=r"preset karlo-v1-alpha has no ar_prior"):
        make_plan("karlo-v1-alpha", config=toml("[ar_prior]\nwidth = 3"))


def test_what_was_resolved_is_a_file_that_resolves_to_the_same(toml):
    file = toml("""[clip]\nvocabulary = ['a', '"', '星', "it's"]\n""")
    plan = make_plan("tiny", config=file, name="mine")
    assert plan.stack.clip.vocabulary == ("a", '"', "星", "it's")
    again = make_plan(config=toml(plan.to_toml(), "again.toml"))
    assert dataclasses.replace(again.stack, name="mine") == plan.stack and again.recipes == plan.recipes
    assert to_toml({"a": None, "b": {"c": (1, 2.5, True), "d": {}}}) == (
        'a = "none"\n\n[b]\nc = [1, 2.5, true]\n\n[b.d]\n'
    )


def test_a_stack_of_its_own_has_ids_of_its_own(toml):
    stack = make_plan("tiny", name="mine").stack
    assert (stack.clip.clip_id, stack.prior.prior_id, stack.decoder.decoder_id, stack.ar_prior.ar_prior_id) == (
        "mine/clip",
        "mine/prior",
        "mine/decoder",
        "mine/ar_prior",
    )
    assert stack.prior.clip_id == stack.decoder.clip_id == stack.ar_prior.clip_id == "mine/clip"
    one = make_plan("tiny", name="mine", stages=["decoder"]).stack
    assert (one.clip.clip_id, one.prior.prior_id, one.decoder.decoder_id) == (
        "tiny-1",
        STORYBOOK.prior.prior_id,
        "mine/decoder",
    )
    public = make_plan("karlo-v1-alpha", name="mine").stack
    assert public.clip.clip_id == public.prior.clip_id == "ViT-L-14/openai" and public.prior.prior_id == "mine/prior"
    said = make_plan("tiny", name="mine", config=toml("[clip]\nclip_id = 'theirs'")).stack
    assert said.clip.clip_id == said.prior.clip_id == "theirs"


class Said:
    """Data with captions."""

    def __init__(self, *captions):
        self.captions = captions

    def __len__(self):
        return len(self.captions)

    def all_captions(self, row):
        return (self.captions[row],)


def test_a_vocabulary_comes_from_the_captions(story, toml):
    data = Said("a green circle", "a green square", "a tiny ring")
    plan = make_plan("tiny", words=4, name="mine").with_words_of(data)
    clip = plan.stack.clip
    assert clip.vocabulary == ("a", "green", "circle", "ring")
    assert clip.knows == "4 words, most often: a, green, circle, ring" and plan.stack.prior.clip_id == "mine/clip"
    assert make_plan("tiny").with_words_of(data).stack.clip.vocabulary[:2] == ("a", "green")
    kept = make_plan("tiny", config=toml("[clip]\nvocabulary = ['x']")).with_words_of(data)
    assert kept.stack.clip.vocabulary == ("x",)
    assert make_plan("tiny").with_words_of(story).stack.clip.vocabulary == plans.TRAINABLE["tiny"].clip.vocabulary
    pairs = make_plan("tiny", words="bpe").with_words_of(data).stack.clip
    assert pairs.vocabulary == () and pairs.text.vocabulary_size == 49408
    with pytest.raises(ValueError, match="no row has a caption, from which CLIP learns"):
        make_plan("tiny").with_words_of(Said(""))


def test_a_decoders_own_text_encoder_reads_the_vocabulary(toml):
    file = toml("[decoder.text_encoder]\nwidth = 16\nheads = 2\ndepth = 1\n")
    plan = make_plan("tiny", config=file, words=3).with_words_of(Said("a green circle"))
    encoder = plan.stack.decoder.text_encoder
    assert encoder.vocabulary_size == WordTokenizer.of(plan.stack.clip).size == 3 + 4
    assert encoder.context_length == plan.stack.clip.context_length and encoder.width == 16


def test_recipes_take_changes_from_texts():
    assert recipe_changes(["siblings=2", "lr=1", "decay=False"]) == {"siblings": 2, "lr": 1.0, "decay": False}
    for wrong, said in (
        ("drop=1", "text_drop"),
        ("ema", "FIELD=VALUE"),
        ("decay=1", "decay is bool, as True; '1' is not"),
        ("steps=2.5", "steps is int"),
        ("timesteps=3", "timesteps is str, as 'logit_normal'"),
    ):
        with pytest.raises(ValueError, match=said):
            recipe_changes([wrong])


def test_a_schedule_given_beside_initial_weights_is_refused(tiny_stack, toml):
    initial = open_initial("tiny:decoder", "decoder")
    plan = make_plan(config=toml("[decoder.schedule]\nprediction = 'eps'"), initial=initial, stages=["decoder"])
    assert plan.stack.decoder.schedule == ScheduleConfig(prediction="eps")
    with pytest.raises(ValueError, match=r"predicts v on the schedule cosine .* would train eps"):
        initial.state_for(plan.stack.decoder, dict)
