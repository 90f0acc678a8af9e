"""What is fuzzed: of each area how an input is made, and what takes it.

`take(rng, folder)` makes one input, gives it to everything that reads such files, and returns whether the first parser
took it. It raises for whatever is neither a result nor a refusal.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import io
import json
import pickletools
import random
import struct
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import mutate

TESTS = Path(__file__).resolve().parents[1]
ROOT = TESTS.parent


def helper(path: str) -> ModuleType:
    """A module of tests/ by its path."""
    name = Path(path).stem
    if name not in sys.modules:
        specification = importlib.util.spec_from_file_location(name, TESTS / path)
        sys.modules[name] = importlib.util.module_from_spec(specification)
        specification.loader.exec_module(sys.modules[name])
    return sys.modules[name]


def said(error: object) -> None:
    """A refusal is one line that can be printed."""
    text = str(error)
    text.encode()
    if not text or "\n" in text or not text.isprintable() or len(text) > 20_000:
        raise AssertionError(f"a refusal that cannot be shown: {text[:300]!r}")


def refused(error: Exception) -> None:
    """The same of a plain ValueError, which the command shows by `printable`."""
    from comfyui_unclip.unclip_core.texts import printable

    said(printable(" ".join(str(error).split())))


class Graphs:
    """Saved graphs, those of the editor's own with subgraphs too, API prompts, and all in a PNG or a WebP. Past: read
    as a workflow."""

    TEMPLATES = "comfyui-workflow-templates-media-image"
    # Values that mean something in a graph: a subgraph's own ends, links that lead to no place, classes of the editor.
    VALUES = (
        -10, -20, "-10", "-20", 2, 4, 2**70, "Reroute", "PrimitiveNode", "Noise", "__class__",
        ["2", 0], ["3", 9], ["1", -1], {"name": "b"},
    )  # fmt: skip

    def prepare(self, folder: Path) -> None:
        from comfyui_unclip.nodes.host import LocalHost, use_host
        from comfyui_unclip.workflows.document.conversion import convert
        from comfyui_unclip.workflows.document.schema import node_classes

        cases = helper("workflows/editor_cases.py")
        self.classes = {**node_classes(), **cases.classes()}
        self.values = (*self.VALUES, cases.SUB)
        shipped = [json.loads(path.read_text("utf-8")) for path in sorted((ROOT / "workflows").glob("*.json"))]
        toys = list(cases.CASES.values())
        with use_host(LocalHost(folder / "output", folder / "input")):
            prompts = [convert(graph, self.classes)[0] for graph in (*shipped, *toys[-6:])]
        saved = [*shipped, *toys, *list(self._templates())[:8]]
        self.graphs = [graph for graph in (*saved, *prompts) if len(json.dumps(graph)) < 60_000]

    def _templates(self) -> Iterator[Any]:
        """Graphs with subgraphs that the editor ships, small enough to be changed quickly."""
        for entry in sorted(importlib.metadata.files(self.TEMPLATES)):
            if entry.suffix == ".json":
                text = Path(entry.locate()).read_text("utf-8")
                if len(text) < 45_000 and '"definitions"' in text and '"nodes"' in text:
                    yield json.loads(text)

    def take(self, rng: random.Random, folder: Path) -> bool:
        from comfyui_unclip.nodes.host import LocalHost, use_host
        from comfyui_unclip.workflows.checks.validation import validate
        from comfyui_unclip.workflows.document.conversion import to_api
        from comfyui_unclip.workflows.document.drawing import as_mermaid, as_text
        from comfyui_unclip.workflows.document.graph import WorkflowError
        from comfyui_unclip.workflows.document.reading import load_workflow
        from comfyui_unclip.workflows.settings.reading import settings
        from comfyui_unclip.workflows.settings.writing import apply

        path = folder / "graph"
        path.write_bytes(self._file(mutate.text(rng.choice(self.graphs), rng, 2, self.values), rng))
        with use_host(LocalHost(folder / "output", folder / "input")):
            try:
                workflow = load_workflow(path)
            except WorkflowError as error:
                said(error)
                return False
            try:
                for setting in settings(workflow, self.classes):
                    f"{setting.name} {setting.value!r} {setting.spec.range_text()}"
                prompt, problems = to_api(workflow, self.classes)
                problems += validate(prompt, self.classes).problems(self.classes)
                as_text(prompt, self.classes)
                as_mermaid(prompt, self.classes)
                changed = workflow.copy()
                problems += apply(changed, [("seed", "3"), ("text", "a star"), ("4.steps", 2)], self.classes)[1]
                to_api(changed, self.classes)
                for problem in problems:
                    said(problem)
            except WorkflowError as error:
                said(error)
        return True

    def _file(self, text: bytes, rng: random.Random) -> bytes:
        """As JSON, or in a picture, one in four of them damaged."""
        from PIL import Image
        from PIL.PngImagePlugin import PngInfo

        kind = rng.choice(("json", "json", "png", "webp"))
        file, name = io.BytesIO(), rng.choice(("workflow", "prompt"))
        if kind == "png":
            info = PngInfo()
            info.add_itxt(name, text.decode("utf-8", "replace"), zip=rng.random() < 0.3)
            Image.new("RGB", (4, 4)).save(file, "PNG", pnginfo=info)
        elif kind == "webp":
            exif = Image.Exif()
            exif[0x010F] = f"{name}:{text.decode('utf-8', 'replace')}"
            Image.new("RGB", (4, 4)).save(file, "WEBP", exif=exif)
        data = file.getvalue() or text
        return mutate.content(data, rng, 1) if rng.random() < 0.08 else data


class Tables:
    """Tables (CSV, TSV, JSON, JSON lines), lists, sweeps and -s. Past: rows were made."""

    # No two name the same input, and none a column of the tables: that would be refused behind the parser.
    SWEEPS = ("eta=0..1..0.25", "steps=1,2,3", 'dtype=["auto", "fp32"]', "decoder.seed=9..0", "model_name=@list.txt")
    ROWS = ({"prompt": "a red star", "seed": 1}, {"prompt": "a, b", "seed": 2}, {"prompt": '"x"', "seed": None})

    def prepare(self, folder: Path) -> None:
        from comfyui_unclip.workflows.document.reading import load_workflow
        from comfyui_unclip.workflows.document.schema import node_classes

        self.classes = node_classes()
        self.graph = load_workflow("text_to_image")

    def take(self, rng: random.Random, folder: Path) -> bool:
        from comfyui_unclip.nodes.host import LocalHost, use_host
        from comfyui_unclip.workflows.document.graph import WorkflowError
        from comfyui_unclip.workflows.rows.contact_sheet import layout
        from comfyui_unclip.workflows.rows.jobs import build
        from comfyui_unclip.workflows.rows.prepared import prepare

        table = self._table(rng, folder) if rng.random() < 0.7 else None
        words = [self._word(word, rng, folder) for word in rng.sample(self.SWEEPS, rng.choice((0, 1, 1, 2, 3)))]
        sweeps, given = words[:2], words[2:]
        try:
            jobs = build(given, table, sweeps)
        except WorkflowError as error:
            for problem in error.problems:
                said(problem)
            return False
        jobs.fingerprint({})
        if len(jobs) <= 200:
            layout(jobs)
            with use_host(LocalHost(folder / "output", folder / "input")):
                try:
                    prepared = prepare(self.graph, jobs, self.classes)
                    for number in prepared.order():
                        prepared.row_prompt(number)
                except WorkflowError as error:
                    for problem in error.problems:
                        said(problem)
        return True

    def _table(self, rng: random.Random, folder: Path) -> Path:
        kind = rng.choice((".csv", ".tsv", ".json", ".jsonl"))
        path = folder / f"table{kind}"
        if kind in (".csv", ".tsv"):
            mark = "," if kind == ".csv" else "\t"
            rows = [["prompt", "seed"], ["a red star", "1"], [f'"a{mark} b"', "2"], ["ä红", ""]]
            data = "\n".join(mark.join(row) for row in rows).encode(rng.choice(("utf-8", "utf-8-sig", "utf-16")))
            path.write_bytes(mutate.content(data, rng, 1) if rng.random() < 0.4 else data)
        elif kind == ".json":
            path.write_bytes(
                mutate.text(list(self.ROWS), rng) if rng.random() < 0.5 else json.dumps(list(self.ROWS)).encode()
            )
        else:
            path.write_bytes(
                b"\n".join(
                    mutate.text(row, rng) if rng.random() < 0.2 else json.dumps(row).encode() for row in self.ROWS
                )
            )
        return path

    def _word(self, word: str, rng: random.Random, folder: Path) -> str:
        (folder / "list.txt").write_bytes(mutate.content(b"a\nb\nc\n", rng, 1))
        word = word.replace("list.txt", str(folder / "list.txt"))
        return mutate.content(word.encode(), rng, 1).decode("utf-8", "replace") if rng.random() < 0.15 else word


def safetensors_parts(data: bytes) -> tuple[dict, bytes]:
    """A safetensors file's header as JSON, and the rest."""
    size = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + size]), data[8 + size :]


def safetensors_file(header: bytes, rest: bytes) -> bytes:
    return len(header).to_bytes(8, "little") + header + rest


class Headers:
    """Our stage files: their headers, and the configs in them, of which networks are built without memory. Past: a
    sound safetensors header."""

    def prepare(self, folder: Path) -> None:
        stack = helper("tiny_stack.py")
        built = stack.build(folder / "tiny")
        other = stack.build(folder / "latent", stack.latent_config())
        self.files = [path.read_bytes() for path in (*built.glob("*.safetensors"), *other.glob("*.safetensors"))]
        self.files = [data for data in self.files if b'"stage"' in data[:100_000]]

    def take(self, rng: random.Random, folder: Path) -> bool:
        import torch

        from comfyui_unclip.unclip_core.checkpoints import catalog
        from comfyui_unclip.unclip_core.checkpoints.header import CheckpointError, guarded, read_header, read_stage
        from comfyui_unclip.unclip_core.clip.networks import empty_network
        from comfyui_unclip.unclip_core.models.build import build_network

        header, rest = safetensors_parts(rng.choice(self.files))
        stage = header["__metadata__"]["stage"]
        if rng.random() < 0.75:
            config = json.loads(header["__metadata__"]["config"])
            header["__metadata__"]["config"] = mutate.text(config, rng).decode("utf-8", "replace")
            data = safetensors_file(json.dumps(header).encode(), rest)
        else:
            data = safetensors_file(mutate.text(header, rng), rest)
        path = folder / "models" / "x" / f"{stage}.safetensors"
        path.parent.mkdir(parents=True)
        path.write_bytes(mutate.content(data[:5000], rng, 1) + data[5000:] if rng.random() < 0.1 else data)
        entry = catalog.read_stack(path.parent)
        for problem in entry.problems if entry else ():
            said(problem)
        try:
            read_header(path)
        except CheckpointError as error:
            said(error)
            return False
        try:
            found = read_stage(path)
            repr(found.config).encode("utf-8", "backslashreplace")
            with guarded(path), torch.device("meta"):
                (empty_network(found.config) if found.stage == "clip" else build_network(found.stage, found.config))
        except ValueError as error:
            refused(error)
        return True


class Folders:
    """Folders of diffusers' layout, one of their configs or indexes changed. Past: it is still a JSON object."""

    def prepare(self, folder: Path) -> None:
        helper("unclip_core/checkpoints/karlo_folder.py").write_karlo_folder(folder / "karlo")
        family, stable = helper("family.py"), helper("family_stable.py")
        family.kandinsky_2_2(folder / "kandinsky", decoders=("",))
        stable.stable_unclip_h(folder / "stable")
        self.folders = [folder / "karlo", *sorted((folder / "kandinsky").iterdir()), folder / "stable"]
        self.files = {each: sorted(each.rglob("*.json")) for each in self.folders}

    def take(self, rng: random.Random, folder: Path) -> bool:
        from comfyui_unclip.unclip_core.checkpoints import catalog

        source = rng.choice(self.folders)
        path = rng.choice([path for path in self.files[source] if path.stat().st_size < 20_000])
        before = path.read_bytes()
        changed = mutate.text(json.loads(before), rng)
        changed = mutate.content(changed, rng, 1) if rng.random() < 0.1 else changed
        try:
            path.write_bytes(changed)
            entry = catalog.read_stack(source)
            for problem in entry.problems if entry else ():
                said(problem)
            for stage in entry.stages.values() if entry else ():
                repr(stage.config)
        finally:
            path.write_bytes(before)
        try:
            return isinstance(json.loads(changed), dict)
        except (ValueError, RecursionError):
            return False


class Pickles:
    """PyTorch's pickles, both formats, and TorchScript: real ones, hostile ones and made up ones, changed. Past: an
    archive or a pickle whose instructions can be told apart."""

    def prepare(self, folder: Path) -> None:
        import numpy
        import torch

        hostile = helper("unclip_core/checkpoints/hostile_pickles.py")
        state = {"a": torch.arange(12.0).reshape(3, 4), "b": torch.ones(5, dtype=torch.float16)}
        state["view"], state["p"] = state["a"][1:, ::2], torch.nn.Parameter(torch.ones(2))
        beside = {"step": 3, "settings": argparse.Namespace(lr=1e-4), "best": numpy.float64(2), "names": {"a", (1, 2)}}
        beside["moments"] = [torch.ones(2), torch.ones(2, dtype=torch.complex64), torch.eye(2).to_sparse()]
        self.files = []
        for options in ({}, {"_use_new_zipfile_serialization": False}):
            for protocol in (2, 4):
                file = io.BytesIO()
                torch.save({"state_dict": state, **beside}, file, pickle_protocol=protocol, **options)
                self.files += [file.getvalue()] * 4
        script = io.BytesIO()
        torch.jit.save(torch.jit.script(torch.nn.Sequential(torch.nn.Linear(3, 4))), script)
        self.files += [script.getvalue()] * 6
        small = [data for data in hostile.HOSTILE.values() if len(data) < 100_000]
        self.files += [*small, *hostile.SOUND.values()]
        self.parts = [
            hostile.tensor(),
            hostile.storage(),
            hostile.module(("a", b"K\x01")),
            hostile.ORDERED,
            hostile.attack(),
            *(b"q\x00", b"q\x01", b"h\x00", b"h\x01", b"ctrain\nSettings\n)R", hostile.text("a")),
        ]
        self.archive, self.legacy = hostile.archive, hostile.legacy

    def take(self, rng: random.Random, folder: Path) -> bool:
        from comfyui_unclip.unclip_core.checkpoints import pickles, tensors, torchscript
        from comfyui_unclip.unclip_core.checkpoints.header import CheckpointError, WeightSet

        path = folder / "x.bin"
        path.write_bytes(self._file(rng))

        def loaded(path: Path) -> None:
            script = pickles.is_torchscript(path)
            weights = WeightSet((path,), "fp32", 1)
            found = torchscript.open_torchscript(path) if script else tensors.open_weights(weights)
            for source in found.values():
                source.read()

        for read in (
            pickles.count_pickled,
            pickles.read_state_dict,
            lambda path: pickles.pickle_mentions(path, "a"),
            loaded,
        ):
            try:
                read(path)
            except CheckpointError as error:
                said(error)
        return self._told_apart(path)

    def _file(self, rng: random.Random) -> bytes:
        kind = rng.random()
        if kind < 0.3:  # instructions put together
            parts = [
                rng.choice((*self.parts, *(bytes([rng.choice(OPCODES)]) for _ in range(6))))
                for _ in range(rng.randint(1, 12))
            ]
            pickled = rng.choice((b"\x80\x02", b"\x80\x04", b"")) + b"".join(parts) + b"."
            if rng.random() < 0.7:
                return self.archive(pickled, script=rng.random() < 0.3)
            return self.legacy(pickled, b"\x80\x02]X\x01\x00\x00\x000a." + struct.pack("<q4f", 4, 1, 2, 3, 4))
        data = rng.choice(self.files)
        if kind < 0.8 and data[:2] == b"PK":  # the pickle in a sound archive
            return self._within(data, rng)
        return mutate.content(data, rng, 2) if kind < 0.95 else data

    def _within(self, data: bytes, rng: random.Random) -> bytes:
        """The archive with its pickle changed."""
        file = io.BytesIO()
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as before, zipfile.ZipFile(file, "w") as after:
                for name in before.namelist():
                    content = before.read(name)
                    pickled = name.endswith("/data.pkl")
                    after.writestr(name, mutate.content(content, rng, 2) if pickled else content)
        except Exception:  # a damaged archive
            return data
        return file.getvalue()

    def _told_apart(self, path: Path) -> bool:
        data = path.read_bytes()
        if data[:2] == b"PK":
            try:
                with zipfile.ZipFile(path) as archive:
                    record = archive.getinfo(next(name for name in archive.namelist() if name.endswith("/data.pkl")))
                    if record.compress_type != zipfile.ZIP_STORED or record.file_size > 1 << 20:
                        return False
                    data = archive.read(record)
            except Exception:
                return False
        try:
            return sum(1 for _ in pickletools.genops(data)) > 0
        except Exception:
            return False


OPCODES = [ord(opcode.code) for opcode in pickletools.opcodes if opcode.arg is None and opcode.code != "."]


class Embeddings:
    """What Save Embedding writes. Past: a sound safetensors header."""

    def prepare(self, folder: Path) -> None:
        import torch

        from comfyui_unclip.unclip_core.checkpoints.embedding_file import save_embedding
        from comfyui_unclip.unclip_core.types import Embedding

        folder.mkdir()
        save_embedding(folder / "x.safetensors", Embedding(torch.randn(2, 8), "ViT-L-14/openai", "image", 3))
        self.file = (folder / "x.safetensors").read_bytes()

    def take(self, rng: random.Random, folder: Path) -> bool:
        from comfyui_unclip.unclip_core.checkpoints.embedding_file import load_embedding
        from comfyui_unclip.unclip_core.checkpoints.header import CheckpointError, read_header

        header, rest = safetensors_parts(self.file)
        if rng.random() < 0.6:
            name = rng.choice(list(header["__metadata__"]))
            header["__metadata__"][name] = str(
                rng.choice((mutate.odd(rng), mutate.near(header["__metadata__"][name], rng)))
            )
            data = safetensors_file(json.dumps(header).encode(), rest)
        elif rng.random() < 0.4:
            rest = struct.pack("<16f", *(rng.choice((0.0, 1e38, -1e38, float("nan"), 1.0)) for _ in range(16)))
            data = safetensors_file(json.dumps(header).encode(), rest)
        else:
            data = safetensors_file(mutate.text(header, rng), rest)
        path = folder / "x.safetensors"
        path.write_bytes(mutate.content(data, rng, 1) if rng.random() < 0.1 else data)
        try:
            embed = load_embedding(path)
            f"{len(embed)} {embed.clip_id} {embed.modality} {embed.noise_level}"
        except ValueError as error:
            refused(error)
        try:
            read_header(path)
        except CheckpointError:
            return False
        return True


class Entries:
    """Entries of --cache, also by someone who can compute the checksum. Past: the checksum is right."""

    NAME = "ab" * 20

    def prepare(self, folder: Path) -> None:
        import torch

        from comfyui_unclip.unclip_core.types import Embedding, GivenNoise, Inversion, LoraRecord, TextEncoding
        from comfyui_unclip.workflows.engine.cache import Entry
        from comfyui_unclip.workflows.engine.disk_cache import Store

        noise = GivenNoise(
            torch.randn(1, 3, 4, 4), Inversion((9, 0), "d", 1.0, "e", "", 0.2, loras=(LoraRecord("a", 1.0, "f"),))
        )
        ids = torch.zeros(1, 5, dtype=torch.long)
        text = TextEncoding(torch.randn(1, 5, 4), torch.randn(1, 4), ids.bool(), ids, "c", ("x",))
        self.files = []
        for index, value in enumerate((Embedding(torch.randn(2, 8), "c", "image", 3), noise, text)):
            Store(folder / str(index), 1 << 30).write(self.NAME, Entry([[value]]))
            self.files += [path.read_bytes() for path in (folder / str(index)).glob("??/*.safetensors")]

    def take(self, rng: random.Random, folder: Path) -> bool:
        from safetensors.torch import load, save

        from comfyui_unclip.workflows.engine import disk_cache

        header, _ = safetensors_parts(data := rng.choice(self.files))
        kind = rng.random()
        if kind < 0.7:
            outputs = mutate.text(json.loads(header["__metadata__"]["outputs"]), rng).decode("utf-8", "replace")
            tensors = load(data)
            checksum = disk_cache._checksum(self.NAME, outputs, tensors)
            data = save(tensors, {"outputs": outputs, "checksum": checksum})
        else:
            data = mutate.content(data, rng)
        path = folder / self.NAME[:2] / f"{self.NAME}.safetensors"
        path.parent.mkdir()
        path.write_bytes(data)
        disk_cache.Store(folder, 1 << 30).read(self.NAME)  # damaged ones are warned of, never raised
        return kind < 0.7


class Results:
    """results.jsonl. Past: lines of JSON objects."""

    LINE: ClassVar = {
        "job": "j", "row": 1, "inputs": {"seed": 1}, "outputs": ["a.png"], "seconds": 1.5, "error": None,
        "texts": {"1": ["x"]}, "executed": ["1"], "node_seconds": {"SaveImage": 0.5},
    }  # fmt: skip

    def prepare(self, folder: Path) -> None:
        pass

    def take(self, rng: random.Random, folder: Path) -> bool:
        from comfyui_unclip.workflows.document.graph import WorkflowError
        from comfyui_unclip.workflows.rows import results

        (folder / "a.png").write_bytes(b"x")
        lines = [mutate.text({**self.LINE, "row": row}, rng) for row in range(1, 4)]
        data = b"\n".join(lines)
        data = mutate.content(data, rng, 2) if rng.random() < 0.3 else data
        (folder / results.FILE).write_bytes(data)
        found = results.Results(folder, "j")
        for result in found.finished().values():
            json.dumps(vars(result))
            [folder / output for output in result.outputs]
        results.seconds_by_class(found.path)
        try:
            found.check_resumable()
        except WorkflowError as error:
            said(error)
        found.append(results.RowResult(9))
        if 9 not in found.finished():
            raise AssertionError("the line that was added is not found")
        return any(isinstance(line, dict) for line in results.read_lines(found.path))


class Pictures:
    """Pictures of every format, damaged or lying about their size. Past: a header that Pillow takes."""

    def prepare(self, folder: Path) -> None:
        from PIL import Image

        folder.mkdir()
        Image.init()
        rng = random.Random(0)
        base = Image.frombytes("RGB", (40, 30), rng.randbytes(3600))
        frames = [base.rotate(angle) for angle in (90, 180, 270)]
        self.files: list[tuple[str, bytes]] = []
        for kind, ending, options in (
            ("PNG", "png", {}), ("PNG", "png", {"save_all": True, "append_images": frames}),
            ("JPEG", "jpg", {}), ("JPEG", "jpg", {"progressive": True}), ("GIF", "gif", {}),
            ("GIF", "gif", {"save_all": True, "append_images": frames}), ("WEBP", "webp", {}),
            ("WEBP", "webp", {"save_all": True, "append_images": frames}), ("BMP", "bmp", {}), ("TIFF", "tif", {}),
            ("TIFF", "tif", {"compression": "tiff_lzw"}), ("TIFF", "tif", {"compression": "jpeg"}),
            ("TIFF", "tif", {"save_all": True, "append_images": frames}), ("AVIF", "avif", {}),
            ("MPO", "jpg", {"save_all": True, "append_images": frames}),
        ):  # fmt: skip
            if kind not in Image.SAVE:
                continue
            file = io.BytesIO()
            base.save(file, kind, **options)
            self.files.append((ending, file.getvalue()))

    def take(self, rng: random.Random, folder: Path) -> bool:
        from aiohttp import web

        from comfyui_unclip.nodes.builtin import BUILTIN_CLASS_MAPPINGS as nodes
        from comfyui_unclip.nodes.host import LocalHost, use_host
        from comfyui_unclip.unclip_core.pictures.opening import BadPicture, opened
        from comfyui_unclip.unclip_core.training.sources.decode import decode
        from comfyui_unclip.workflows.server import picture_routes

        ending, data = rng.choice(self.files)
        data = mutate.content(data[:200], rng, 2) + data[200:] if rng.random() < 0.5 else mutate.content(data, rng, 3)
        path = folder / "input" / f"x.{ending}"
        path.parent.mkdir()
        path.write_bytes(data)

        def noted(work, *arguments) -> None:
            try:
                work(*arguments)
            except (BadPicture, web.HTTPException) as error:
                said(getattr(error, "text", error))

        with use_host(LocalHost(folder / "output", folder / "input")):
            noted(lambda: nodes["LoadImage"]().load_image(image=path.name))
            noted(lambda: nodes["LoadImageMask"]().load_image(image=path.name, channel="alpha"))
            noted(picture_routes._check, path.name, data)
            for query in (("rgba", "webp;90"), ("rgb", ""), ("a", "jpeg")):
                noted(picture_routes._converted, path, *query)
            noted(picture_routes._with_alpha, path, data)
            for side in (None, 64):
                noted(decode, data, side)
        try:
            with opened(path, "x"):
                return True
        except BadPicture:
            return False


AREAS = {
    "graphs": Graphs(),
    "tables": Tables(),
    "headers": Headers(),
    "folders": Folders(),
    "pickles": Pickles(),
    "embeddings": Embeddings(),
    "entries": Entries(),
    "results": Results(),
    "pictures": Pictures(),
}
