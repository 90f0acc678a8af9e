"""A small share of the campaign, and that the campaign would notice."""

import importlib.util
import random
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def campaign():
    """The modules of this folder by name: as a script finds them, without touching sys.path."""
    found = {}
    for name in ("mutate", "areas", "fuzz"):
        specification = importlib.util.spec_from_file_location(name, HERE / f"{name}.py")
        found[name] = sys.modules[name] = importlib.util.module_from_spec(specification)
        specification.loader.exec_module(found[name])
    yield found
    for name in found:
        sys.modules.pop(name)


SHARES = {"graphs": 400, "tables": 40, "pickles": 40, "embeddings": 40, "entries": 40, "results": 40, "pictures": 40}


@pytest.mark.parametrize(("name", "count"), SHARES.items())
def test_a_small_share_finds_nothing(campaign, name, count, tmp_path):
    """The first inputs of the campaign; most get past the first parser."""
    area, past = campaign["areas"].AREAS[name], 0
    area.prepare(tmp_path / "made_of")
    for number in range(count):
        folder = tmp_path / str(number)
        folder.mkdir()
        past += area.take(random.Random(f"2/{name}/{number}"), folder)
    assert past >= 0.4 * count


class Takes:
    """An area whose inputs do what they are given to do."""

    def __init__(self, work):
        self.take = lambda rng, folder: work(folder)


@pytest.mark.parametrize(
    ("work", "trouble"),
    [
        (lambda folder: 1 / 0, "ZeroDivisionError"),
        (lambda folder: (folder.parent.parent / "outside.txt").write_text("x"), "wrote "),
        (lambda folder: (folder / "inside.txt").write_text("x"), None),
        (lambda folder: len(bytearray(600 << 20)), "MB at its peak"),
    ],
    ids=["traceback", "outside", "inside", "memory"],
)
def test_the_campaign_notices(campaign, work, trouble, tmp_path, monkeypatch):
    fuzz = campaign["fuzz"]
    (tmp_path / "top" / "inside").mkdir(parents=True)
    fuzz.reset_peak()  # what tests before this one took counts for nothing
    monkeypatch.setattr(fuzz, "MEGABYTES", fuzz.peak() + 300 if trouble and "MB" in trouble else 1 << 30)
    if trouble and "MB" in trouble and not Path("/proc/self/clear_refs").exists():
        pytest.skip("this system does not say what a process took at most")
    found = fuzz.one(Takes(work), "x", 1, 0, tmp_path / "top" / "inside", fuzz.watch_writes())
    assert (found["trouble"] is None) if trouble is None else (trouble in found["trouble"])
