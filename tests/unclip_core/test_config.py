"""Configs survive JSON, and refuse what they do not understand."""

import dataclasses
import json

import pytest

from comfyui_unclip.unclip_core.config import (
    STAGE_CONFIGS,
    ClipConfig,
    DecoderConfig,
    PriorConfig,
    ScheduleConfig,
    UNetConfig,
    UpsamplerConfig,
    from_json,
    to_json,
)
from comfyui_unclip.unclip_core.presets import PRESETS, STORYBOOK

STAGES = [
    (preset, stage) for preset, stack in PRESETS.items() for stage in STAGE_CONFIGS if getattr(stack, stage) is not None
]


@pytest.mark.parametrize(("preset", "stage"), STAGES)
def test_every_preset_survives_json(preset, stage):
    config = getattr(PRESETS[preset], stage)
    text = to_json(config)
    again = from_json(STAGE_CONFIGS[stage], text)
    assert again == config
    assert hash(again) == hash(config)  # lists came back as tuples
    assert to_json(again) == text


def test_presets_are_whole_stacks_and_their_stages_fit_together():
    assert list(PRESETS) == ["paper", "karlo-v1-alpha", "storybook"]
    for stack in PRESETS.values():
        ids = {stack.clip.clip_id, stack.prior.clip_id, stack.decoder.clip_id}
        widths = {stack.clip.embed_dim, stack.prior.clip_dim, stack.decoder.clip_dim}
        assert len(ids) == 1 and len(widths) == 1
        assert stack.upsampler_256.low_size == stack.decoder.unet.image_size == 64


def test_a_whole_number_may_stand_for_a_float_and_text_keeps_its_characters():
    config = from_json(
        UpsamplerConfig, to_json(UpsamplerConfig()).replace('"sampling_level": 0.0', '"sampling_level": 1')
    )
    assert config.sampling_level == 1.0 and isinstance(config.sampling_level, float)
    clip = dataclasses.replace(STORYBOOK.clip, vocabulary=("星", "star"))
    assert "星" in to_json(clip) and from_json(ClipConfig, to_json(clip)) == clip


def test_missing_fields_take_their_defaults():
    assert from_json(PriorConfig, "{}") == PriorConfig()


def changed(config, **values):
    return json.dumps({**json.loads(to_json(config)), **values})


@pytest.mark.parametrize(
    ("cls", "text", "named"),
    [
        (PriorConfig, changed(PriorConfig(), colour=1), r"PriorConfig: unknown fields \['colour'\].*newer"),
        (PriorConfig, changed(PriorConfig(), depth="4"), r"PriorConfig.depth: expected int, got '4'"),
        (PriorConfig, changed(PriorConfig(), depth=True), r"PriorConfig.depth: expected int, got True"),
        (PriorConfig, changed(PriorConfig(), final_norm=1), r"PriorConfig.final_norm: expected bool, got 1"),
        (PriorConfig, changed(PriorConfig(), depth=4.5), r"PriorConfig.depth: expected int"),
        (PriorConfig, changed(PriorConfig(), schedule=3), "PriorConfig.schedule: expected an object"),
        (PriorConfig, changed(PriorConfig(), schedule={"name": "sigmoid"}), "ScheduleConfig.name 'sigmoid'.*cosine"),
        (UNetConfig, changed(UNetConfig(), channel_mult=2), "UNetConfig.channel_mult: expected a list, got 2"),
        (UNetConfig, changed(UNetConfig(), channel_mult=[1, "2"]), "UNetConfig.channel_mult: expected int, got '2'"),
        (ClipConfig, changed(ClipConfig(), image_mean=[0.5, 0.5]), "ClipConfig.image_mean: expected 3 values"),
        (ClipConfig, "{", "ClipConfig: not JSON"),
        (ClipConfig, "[]", r"ClipConfig: expected an object, got \[\]"),
    ],
)
def test_json_that_is_not_the_config_is_refused_with_its_place(cls, text, named):
    with pytest.raises(ValueError, match=named):
        from_json(cls, text)


def test_impossible_values_are_refused_when_made():
    with pytest.raises(ValueError, match=r"variance 'learned_range' needs unet.out_channels 6, got 3"):
        DecoderConfig(unet=UNetConfig(out_channels=3), schedule=ScheduleConfig(variance="learned_range"))
    with pytest.raises(ValueError, match="image_size 60 must be a multiple of 16"):
        UNetConfig(image_size=60, patch_size=2)
    with pytest.raises(ValueError, match=r"UpsamplerConfig.augmentation 'fog' is unknown"):
        UpsamplerConfig(augmentation="fog")
    with pytest.raises(ValueError, match=r"PriorConfig.scaling"):
        PriorConfig(scaling="none")
    with pytest.raises(ValueError, match=r"DecoderConfig.null_embed"):
        DecoderConfig(null_embed="none")
