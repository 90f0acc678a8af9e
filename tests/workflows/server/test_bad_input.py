"""What goes wrong in an editor on a real (tiny) model ends with words on the node concerned; the next run works."""

import asyncio
import shutil
import threading
import time

import pytest

from comfyui_unclip.nodes import NODE_CLASS_MAPPINGS
from comfyui_unclip.nodes.host import LocalHost


class Waits:
    """Hands a decoder on when it is let go, deaf to Cancel, as a model that is read from a slow disk is."""

    RETURN_TYPES = ("UNCLIP_DECODER",)
    FUNCTION = "go"
    held = threading.Event()
    gate = threading.Event()

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"decoder": ("UNCLIP_DECODER", {})}}

    def go(self, decoder):
        type(self).held.set()
        assert type(self).gate.wait(20)
        return (decoder,)


class Latent:
    """Says IMAGE and gives something else, as a careless pack does."""

    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "go"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}}

    def go(self):
        return ({"samples": None},)


@pytest.fixture
def toy_classes(toy_classes):
    Waits.held, Waits.gate = threading.Event(), threading.Event()
    return {**toy_classes, **NODE_CLASS_MAPPINGS, "Waits": Waits, "Latent": Latent}


@pytest.fixture
def model(tiny_models, tmp_path, monkeypatch):
    """Folder of a model `fleeting` whose files may be deleted; no other but the embedded one is installed."""
    shutil.copytree(tiny_models / "tiny", tmp_path / "models" / "fleeting")
    monkeypatch.setenv("UNCLIP_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "models" / "fleeting"


def node(class_type, **inputs):
    """A node of a prompt, its other widgets at their defaults."""
    required = NODE_CLASS_MAPPINGS[class_type].INPUT_TYPES()["required"] if class_type in NODE_CLASS_MAPPINGS else {}
    widgets = {name: spec[1]["default"] for name, spec in required.items() if "default" in spec[1]}
    return {"class_type": class_type, "inputs": widgets | inputs}


def painting(model_name="fleeting", dtype="fp32", waits=False, **settings):
    """Load -> decode -> save; with `waits` the decoder arrives late."""
    return {
        "load": node("UnCLIPLoader", model_name=model_name, dtype=dtype),
        "wait": node("Waits", decoder=["load", 2]),
        "decode": node("UnCLIPDecoderSample", decoder=["wait", 0] if waits else ["load", 2], **settings),
        "save": node("SaveImage", images=["decode", 0], filename_prefix="made"),
    }


async def post(client, address, **body):
    async with client.post(address, json=body) as response:
        return response.status, await response.json()


def test_a_file_deleted_between_listing_and_loading_is_named_on_the_node_that_reads_it(ask, open_page, model):
    kept = (model / "decoder.safetensors").read_bytes()

    async def scenario(client):
        page = await open_page(client)
        await page.queue(painting(waits=True))
        assert await asyncio.to_thread(Waits.held.wait, 20)
        (model / "decoder.safetensors").unlink()
        Waits.gate.set()
        error = await page.hear("execution_error")
        assert (error["node_id"], error["node_type"]) == ("decode", "UnCLIPDecoderSample")
        assert "decoder.safetensors" in error["exception_message"] and "No such file" in error["exception_message"]

        error = (await page.run(painting()))[1]  # listed again, it is a model without a decoder
        assert error["node_id"] == "decode" and "has no decoder stage" in error["exception_message"]
        assert error["current_inputs"]["decoder"] == ["MissingStage"] and "_failure" not in "".join(error["traceback"])

        (model / "decoder.safetensors").write_bytes(kept)
        assert (await page.run(painting()))[0] == "execution_success"

    ask(scenario)


def test_a_cut_download_and_a_missing_model_stand_on_the_loader_before_anything_runs(ask, open_page, model):
    (model / "prior.safetensors").write_bytes(b"x" * 100)

    async def scenario(client):
        page = await open_page(client)
        status, refused = await post(client, "/api/prompt", prompt=painting(), client_id=page.name)
        words = str(refused["node_errors"]["load"]["errors"])
        assert status == 400 and list(refused["node_errors"]) == ["load"]
        assert "prior.safetensors" in words and "safetensors file" in words

        status, refused = await post(client, "/api/prompt", prompt=painting("karlo-v1-alpha"), client_id=page.name)
        words = str(refused["node_errors"]["load"]["errors"])
        assert status == 400 and list(refused["node_errors"]) == ["load"]
        assert "unclip pull karlo-v1-alpha" in words and "installed: " in words and "fleeting" in words
        assert (await page.run({"1": node("Warns", text="x")}))[0] == "execution_success"

    ask(scenario)


def test_an_input_of_the_wrong_kind_is_named_with_what_it_is(ask, open_page, model, tmp_path):
    def encoding(image):
        return {
            "load": node("UnCLIPLoader", model_name="fleeting", dtype="fp32"),
            "picture": node("UnCLIPExamplePicture", name="red apple in the snow"),
            "latent": node("Latent"),
            "own": node("LoadImage", image="mine.png"),
            "labels": node("UnCLIPZeroShot", clip=["load", 0], image=image, labels="a\nb"),
            "show": node("PreviewImage", images=["labels", 1]),
        }

    async def scenario(client):
        page = await open_page(client)
        for image in (["picture", 1], ["load", 0], "a text"):  # a mask, a model, no link at all
            status, refused = await post(client, "/api/prompt", prompt=encoding(image), client_id=page.name)
            assert status == 400 and list(refused["node_errors"]) == ["labels"], refused
            assert refused["node_errors"]["labels"]["errors"][0]["extra_info"]["input_name"] == "image"
        kind, error, _ = await page.run(encoding(["latent", 0]))
        assert (kind, error["node_id"]) == ("execution_error", "labels")
        assert "image must be a picture" in error["exception_message"] and "dict" in error["exception_message"]

        status, refused = await post(client, "/api/prompt", prompt=encoding(["own", 0]), client_id=page.name)
        assert status == 400 and "mine.png" in str(refused["node_errors"]["own"]["errors"])
        (tmp_path / "input").mkdir(exist_ok=True)
        (tmp_path / "input" / "mine.png").write_bytes(b"not a picture")
        kind, error, _ = await page.run(encoding(["own", 0]))
        assert (kind, error["node_id"]) == ("execution_error", "own") and "mine.png" in error["exception_message"]
        assert (await page.run(encoding(["picture", 0])))[0] == "execution_success"

    ask(scenario)


def test_cancelling_twice_while_a_model_is_read_stops_before_the_next_node(ask, open_page, model):
    async def scenario(client):
        page = await open_page(client)
        job = (await page.queue(painting(waits=True)))["prompt_id"]
        after = (await page.queue(painting(seed=5)))["prompt_id"]
        assert await asyncio.to_thread(Waits.held.wait, 20)
        for _ in range(2):
            await post(client, "/api/interrupt")
        Waits.gate.set()
        assert (await page.hear("execution_interrupted"))["prompt_id"] == job
        assert (await page.hear("execution_success"))["prompt_id"] == after
        ran = [data["node"] for kind, data in page.heard if kind == "executing" and data["prompt_id"] == job]
        assert "decode" not in ran

    ask(scenario)


PRIOR, DECODER = {"prior": ["load", 1], "text": ["text", 0]}, {"decoder": ["load", 2]}
SAMPLERS = {
    **{
        f"prior, {sampler}": ("UnCLIPDiffusionPrior", {**PRIOR, "steps": 1000, "sampler": sampler})
        for sampler in ("ddpm", "ddim", "dpmpp_2m", "analytic_ddpm")
    },
    "autoregressive prior": ("UnCLIPAutoregressivePrior", {"ar_prior": ["load", 5], "text": ["text", 0], "count": 8}),
    **{
        f"decoder, {sampler}": ("UnCLIPDecoderSample", {**DECODER, "steps": 1000, "sampler": sampler})
        for sampler in ("ddpm", "ddim", "dpmpp_2m")
    },
    "inversion": ("UnCLIPDDIMInvert", {**DECODER, "image": ["picture", 0], "steps": 900}),
    "256 px": (
        "UnCLIPUpsample256",
        {"upsampler": ["load", 3], "image": ["picture", 0], "steps": 1000, "crop": "center"},
    ),
    "1024 px": (
        "UnCLIPUpsample1024",
        {"upsampler": ["load", 4], "image": ["picture", 0], "steps": 1000, "crop": "center"},
    ),
}
TAKEN_AS = {"UNCLIP_EMBED": "embed", "UNCLIP_NOISE": "noise"}


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_hears_cancel_between_its_steps(ask, open_page, model, monkeypatch, name):
    listen = LocalHost.check_interrupt

    def slowly(host):  # as a larger network is: the tiny one might be through before Cancel arrives
        time.sleep(0.02)
        listen(host)

    monkeypatch.setattr(LocalHost, "check_interrupt", slowly)
    kind, inputs = SAMPLERS[name]
    result = NODE_CLASS_MAPPINGS[kind].RETURN_TYPES[0]
    link = {TAKEN_AS[result]: ["sample", 0]} if result in TAKEN_AS else {}
    prompt = {
        "load": node("UnCLIPLoader", model_name="fleeting", dtype="fp32"),
        "text": node("UnCLIPTextEncode", clip=["load", 0], text="a red star", one_per_line=False),
        "picture": node("UnCLIPExamplePicture", name="red apple in the snow"),
        "sample": node(kind, **inputs),
        "decode": node("UnCLIPDecoderSample", **DECODER, **link),
        "save": node("PreviewImage", images=["decode" if link else "sample", 0]),
    }

    async def scenario(client):
        page = await open_page(client)
        await page.queue(prompt)
        await page.hear("progress", node="sample")
        for _ in range(2):
            await post(client, "/api/interrupt")
        told = await page.hear("execution_interrupted", "execution_success", "execution_error")
        assert page.heard[-1][0] == "execution_interrupted", told
        assert (told["node_id"], told["node_type"]) == ("sample", kind)
        steps = [data for kind, data in page.heard if kind == "progress" and data["node"] == "sample"]
        assert steps[-1]["value"] < steps[-1]["max"]
        await page.hear("executing", node=None)
        assert (await page.run({"1": node("Warns", text="x")}))[0] == "execution_success"

    ask(scenario)
