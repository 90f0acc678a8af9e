"""`unclip train` and `unclip evaluate`: from a command line to a run folder, errors on one line."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from comfyui_unclip.tests import tiny_stack
from comfyui_unclip.tests.stage_file import load_stage
from comfyui_unclip.unclip_core.training import plan, task_clip, task_decoder
from comfyui_unclip.workflows.cli import main, run
from comfyui_unclip.workflows.commands import evaluate
from comfyui_unclip.workflows.commands._stopping import asked_to_stop


@pytest.fixture
def tiny(tiny_models, tmp_path, monkeypatch):
    """A working folder, and the preset `tiny`."""
    monkeypatch.setitem(plan.TRAINABLE, "tiny", tiny_stack.config())
    monkeypatch.setitem(plan.RECIPES, "tiny", plan.RECIPES["storybook"])
    monkeypatch.setattr("comfyui_unclip.unclip_core.pages.keep_pages", lambda: True)  # would outlive the test
    monkeypatch.setattr(task_decoder, "SHEET_STEPS", 2)
    monkeypatch.chdir(tmp_path)
    return tmp_path


SIZES = ("--preset", "tiny", "--pictures", "16", "--batch", "4", "--device", "cpu")


def train(*arguments):
    return run(["train", *arguments, *SIZES])


def recipe_of(folder):
    return json.loads((folder / "config.json").read_text())["recipe"]


def test_a_stage_is_trained_and_taken_up_again(tiny, capsys):
    assert train("upsampler-256", "--steps", "2", "--lr", "1e-4", "--seed", "3", "--fp32") == 0
    assert "wrote runs/upsampler_256/upsampler_256.safetensors" in capsys.readouterr().out
    folder = tiny / "runs" / "upsampler_256"
    stage, config, _ = load_stage(folder / "upsampler_256.safetensors")
    assert stage == "upsampler_256" and config == plan.TRAINABLE["tiny"].upsampler_256
    recipe = recipe_of(folder)
    assert (recipe["steps"], recipe["batch"], recipe["lr"], recipe["seed"], recipe["pictures"]) == (2, 4, 1e-4, 3, 16)
    assert (tiny / "data" / "storybook" / "storybook-16-3.npy").exists()
    assert train("upsampler-256", "--steps", "3", "--lr", "1e-4", "--seed", "3", "--fp32") == 0
    logged = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in logged if "loss" in line] == [2, 3]
    assert train("upsampler-256", "--steps", "3", "--lr", "1e-4", "--seed", "4", "--fp32") == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: --run runs/upsampler_256: this run was started otherwise (seed 3 -> 4, data story")


def test_any_number_of_the_recipe_can_be_set(tiny, capsys):
    assert train("clip", "--steps", "1", "--set", "siblings=2", "--set", "lr=1", "--set", "decay=False") == 0
    recipe = recipe_of(tiny / "runs" / "clip")
    assert (recipe["siblings"], recipe["lr"], recipe["decay"]) == (2, 1.0, False)
    assert train("clip", "--set", "drop=1") == 2
    assert "text_drop" in capsys.readouterr().err


def test_wrong_weights_and_wrong_words_end_with_one_line_and_code_2(tiny, tiny_models, capsys):
    weights = str(tiny_models / "tiny" / "prior.safetensors")
    assert train("decoder", "--clip", str(tiny_models / "tiny" / "clip.safetensors"), "--init", weights) == 2
    assert "holds a prior, not a decoder" in capsys.readouterr().err
    assert run(["train", "painter"]) == 2
    assert run(["train", "decoder", "--preset", "nope"]) == 2
    assert "--preset 'nope' is unknown" in capsys.readouterr().err
    assert run(["train", "upsampler-256", "--data", "nothing-here"]) == 2
    assert "--data nothing-here: no pictures found" in capsys.readouterr().err
    assert run(["train", "all"]) == 2 and "train all needs --name" in capsys.readouterr().err
    assert run(["train", "all", "--name", "x", "--stages", "clip,painter"]) == 2
    assert "'painter' is unknown; choose of clip, prior" in capsys.readouterr().err
    for given, said in (
        (("--dtype", "fp23"), "--dtype 'fp23' is unknown; choose one of auto, fp32"),
        (("--device", "gpu"), "--device gpu: PyTorch does not find it here; choose auto"),
        (("--set", "text_drop=3"), "recipe.decoder.text_drop 3.0: a share; give 0 to 1"),
        (("--batch", "8", "--micro-batch", "3"), "recipe.decoder.micro_batch 3: a step of 8 rows"),
    ):
        assert run(["train", "decoder", *given]) == 2
        assert said in capsys.readouterr().err
    assert run(["train", "all", "--name", "../x", "--models", str(tiny)]) == 2
    assert "--name ../x: it is to be the name of a folder" in capsys.readouterr().err
    assert not (tiny / "runs").exists()


def test_the_config_is_shown_and_read_again(tiny, capsys):
    assert train("prior", "--print-config", "--name", "mine", "--steps", "7") == 0
    text = capsys.readouterr().out
    (tiny / "mine.toml").write_text(text)
    assert 'preset = "tiny"' in text and 'prior_id = "mine/prior"' in text
    assert run(["train", "prior", "--config", "mine.toml", "--name", "mine", "--print-config"]) == 0
    assert capsys.readouterr().out == text


def test_a_signal_saves_the_run_and_the_same_command_goes_on(tiny, monkeypatch, capsys):
    batch = task_clip.ClipTask.batch
    made = []

    def signalled(self, *given):
        made.append(0)
        if len(made) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return batch(self, *given)

    monkeypatch.setattr(task_clip.ClipTask, "batch", signalled)
    assert train("clip", "--steps", "5", "--fp32") == 128 + signal.SIGTERM
    assert "train clip: stopped at step" in capsys.readouterr().err
    step = torch.load(tiny / "runs" / "clip" / "checkpoint.pt", weights_only=True)["step"]
    assert 2 <= step < 5 and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert train("clip", "--steps", "5", "--fp32") == 0
    assert torch.load(tiny / "runs" / "clip" / "checkpoint.pt", weights_only=True)["step"] == 5


TINY_TOML = """
[upsampler_256.unet]
channels = 8
channel_mult = [1]
depth = 1
norm_groups = 4

[recipe.upsampler_256]
batch = 4
micro_batch = 2
pictures = 16
crop_fraction = 8
"""


@pytest.mark.skipif(sys.platform == "win32", reason="torchrun's signals")
def test_torchrun_trains_in_two_processes_that_print_once_keep_others_out_and_save_when_told_to_end(tiny, capsys):
    (tiny / "tiny.toml").write_text(TINY_TOML)
    command = ["train", "upsampler-256", "--config", "tiny.toml", "--device", "cpu", "--fp32", "--set", "warmup=2"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    job = subprocess.Popen(
        [*torchrun, "-m", "comfyui_unclip.workflows.cli", *command, "--steps", "1000000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    folder = tiny / "runs" / "upsampler_256"
    metrics = folder / "metrics.jsonl"
    for _ in range(6000):
        if job.poll() is not None or (metrics.exists() and metrics.read_text()):
            break
        time.sleep(0.1)
    assert job.poll() is None, job.communicate()[1][-3000:]
    workers = Path(f"/proc/{job.pid}/task/{job.pid}/children")
    children = workers.read_text().split() if workers.exists() else []
    assert run([*command, "--steps", "1000000"]) == 2
    assert "is training there" in capsys.readouterr().err
    job.send_signal(signal.SIGTERM)
    out, said = job.communicate(timeout=120)
    assert job.returncode != 0 and not out
    step = torch.load(folder / "checkpoint.pt", weights_only=True)["step"]
    assert said.count(f"train upsampler_256: stopped at step {step}, which is saved") == said.count("stopped at") == 1
    assert said.count("| 0/1000000") == 1 and "FutureWarning" not in said
    assert not [child for child in children if Path(f"/proc/{child}").exists()]
    assert run([*command, "--steps", str(step + 1)]) == 0  # one process takes it up
    assert "wrote runs/upsampler_256/upsampler_256.safetensors" in capsys.readouterr().out


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_before_the_first_step_a_signal_ends_the_command_at_once(tiny, monkeypatch, capsys, number):
    """Data is made and read then, for minutes or hours, and nothing is there to be saved."""

    def signalled(self, *given):
        os.kill(os.getpid(), number)
        time.sleep(60)

    command = ["unclip", "train", "clip", *SIZES, "--steps", "5", "--fp32"]
    with monkeypatch.context() as patched, pytest.raises(SystemExit) as ended:
        patched.setattr(task_clip.ClipTask, "batch", signalled)
        patched.setattr(sys, "argv", command)
        main()
    assert ended.value.code == 128 + number and "interrupted" in capsys.readouterr().err
    assert not (tiny / "runs" / "clip" / "checkpoint.pt").exists()
    assert train("clip", "--steps", "1", "--fp32") == 0


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="forks a process")
def test_forked_workers_still_end_when_they_are_told_to_and_leave_a_ctrl_c_to_the_first_process():
    with asked_to_stop() as stop:
        for number, alive in ((signal.SIGINT, True), (signal.SIGTERM, False)):
            context = multiprocessing.get_context("fork")
            runs = context.Event()
            worker = context.Process(target=lambda runs=runs: (runs.set(), time.sleep(60)))
            worker.start()
            assert runs.wait(60)  # a signal in the midst of a fork is lost
            os.kill(worker.pid, number)
            worker.join(1 if alive else 30)
            assert worker.is_alive() == alive
            worker.kill()
            worker.join()
        assert not stop()
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop() and stop.number == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)


def test_evaluate_uses_the_settings_of_the_saved_graph(tiny_stack, tmp_path, repository):
    settings = evaluate.saved_settings(repository / "workflows" / "text_to_image.json")
    assert settings["prior"] == {"steps": None, "guidance_scale": None, "candidates": 2, "sampler": None}
    assert settings["decoder"] == {"steps": None, "guidance_scale": None, "eta": 0.0, "sampler": None}
    graph = json.loads((repository / "workflows" / "text_to_image.json").read_text())
    for node in graph["nodes"]:
        if node["type"] == "UnCLIPDecoderSample":
            node["widgets_values"][:4] = [7, 2.5, 0.25, "ddim"]
    (tmp_path / "changed.json").write_text(json.dumps(graph))
    changed = evaluate.saved_settings(tmp_path / "changed.json")
    assert changed["decoder"] == {"steps": 7, "guidance_scale": 2.5, "eta": 0.25, "sampler": "ddim"}
