"""Files from strangers, tens of thousands of them, by hand and not in CI:

    python tests/campaigns/fuzz.py                            every area, 10,000 inputs each
    python tests/campaigns/fuzz.py pickles pictures -n 300    some areas, a few inputs
    python tests/campaigns/fuzz.py pickles --only 17          one input again, with its traceback

An input is made from the seed, its area and its number, so that each can be made again. It is trouble when it leads to
anything but a result or a refusal in one printable line; takes more than 5 s of processor time, or a minute; brings the
process above 2 GB; or writes outside of its own folder. The process that takes an input is killed when it exceeds its
time, and a new one goes on with the next. An input counts as `past` when its area's first parser takes it (areas.py
says what that is). The exit code is 1 when there was trouble, or when less than half of an area's inputs got past.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import resource
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

SECONDS, ASLEEP, MEGABYTES = 5.0, 60.0, 2048
ADDRESSES = 12 << 30  # bytes of address space: the machine outlives an input that would take all


def main() -> int:
    from areas import AREAS

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("areas", nargs="*", metavar="AREA", help=", ".join(AREAS))
    parser.add_argument("-n", "--count", type=int, default=10_000, help="the number of inputs of each area")
    parser.add_argument("--first", type=int, default=0, help="the number to begin with, to go on with a campaign")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, help="this input alone, in this process")
    parser.add_argument("--keep", type=Path, default=Path("fuzz-trouble"), help="where files that made trouble go")
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if unknown := set(given.areas) - set(AREAS):
        parser.error(f"no area {', '.join(unknown)}; there are {', '.join(AREAS)}")
    if given.worker is not None:
        work(AREAS[given.areas[0]], given.areas[0], given.seed, range(given.worker, given.count))
        return 0
    if given.only is not None:
        return again(AREAS[given.areas[0]], given.areas[0], given.seed, given.only)
    trouble = False
    for area in given.areas or AREAS:
        trouble |= campaign(area, range(given.first, given.count), given.seed, given.keep)
    return int(trouble)


def campaign(area: str, numbers: range, seed: int, keep: Path) -> bool:
    """Run an area's inputs and print what came of them; True when there was trouble."""
    start, past, refused, slowest, largest, troubles, at = time.time(), 0, 0, 0.0, 0, [], numbers.start
    while at < numbers.stop:
        ended = None
        for found in results(area, numbers.stop, seed, at):
            if "died" in found:
                ended = found["died"]
                break
            at = found["input"] + 1
            slowest, largest = max(slowest, found["seconds"]), max(largest, found["megabytes"])
            past, refused = past + found["past"], refused + (not found["past"])
            if found["trouble"]:
                troubles.append((found["input"], found["trouble"]))
                print(f"{area} {found['input']}: {found['trouble']}", flush=True)
                if found["folder"]:
                    shutil.copytree(found["folder"], keep / f"{area}-{found['input']}", dirs_exist_ok=True)
        if ended is not None:
            troubles.append((at, ended))
            print(f"{area} {at}: {ended}", flush=True)
            at += 1
    share = past / max(1, len(numbers))
    print(
        f"{area:12} {len(numbers)} inputs, {share:.0%} past the first parser, {len(troubles)} in trouble, "
        f"slowest {slowest:.2f} s, peak {largest} MB, seed {seed}, {time.time() - start:.0f} s",
        flush=True,
    )
    return bool(troubles) or share < 0.5


def results(area: str, count: int, seed: int, at: int):
    """What a worker says of each input from `at` on; at the end how it died, if it did."""
    command = [sys.executable, __file__, area, "--worker", str(at), "-n", str(count), "--seed", str(seed)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=tempfile.gettempdir()
    ) as worker:
        limit = 3 * ASLEEP  # until the first one: imports, and what the area is made of
        while True:
            if not select.select([worker.stdout], [], [], limit)[0]:
                worker.kill()
                yield {"died": f"nothing for {limit:.0f} s"}
                return
            line = worker.stdout.readline()
            if not line:
                break
            limit = ASLEEP
            yield json.loads(line)
    if worker.returncode:
        reasons = {-signal.SIGPROF: f"more than {SECONDS:.0f} s of processor time", -signal.SIGKILL: "killed"}
        yield {"died": reasons.get(worker.returncode, f"the process ended with {worker.returncode}")}


def work(area, name: str, seed: int, numbers: range) -> None:
    """Take the inputs one after another, and say of each what came of it, a JSON line each."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what the inputs make print is no result
    with tempfile.TemporaryDirectory() as top:
        folder = Path(top, "inside")
        area.prepare(Path(top, "made_of"))
        limit_addresses()
        writes = watch_writes()
        for number in numbers:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            found = one(area, name, seed, number, folder, writes)
            print(json.dumps({"input": number, **found}), file=out, flush=True)
            if found["trouble"]:
                folder = Path(top, f"inside{number}")  # the other one is for looking at


def one(area, name: str, seed: int, number: int, folder: Path, writes: list[str]) -> dict:
    """What comes of one input."""
    rng = random.Random(f"{seed}/{name}/{number}")
    reset_peak()
    writes.clear()
    trouble, past = None, False
    start = time.process_time()
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        past = bool(area.take(rng, folder))
    except BaseException as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        trouble = f"{type(error).__name__}: {str(error)[:200]!r} ({last.filename}:{last.lineno})"
    signal.setitimer(signal.ITIMER_PROF, 0)
    seconds, megabytes = time.process_time() - start, peak()
    root = os.path.realpath(folder.parent)
    if outside := [path for path in writes if not os.path.realpath(path).startswith((root, os.devnull, "/proc/"))]:
        trouble = f"wrote {outside[0]!r}"
    if megabytes > MEGABYTES:
        trouble = f"{megabytes} MB at its peak"
    told = {"seconds": round(seconds, 3), "megabytes": megabytes, "past": past, "trouble": trouble}
    return told | {"folder": str(folder) if trouble else None}


def again(area, name: str, seed: int, number: int) -> int:
    """One input in this process, without limits of time."""
    with tempfile.TemporaryDirectory() as top:
        area.prepare(Path(top, "made_of"))
        folder = Path(top, "inside")
        folder.mkdir()
        print("past" if area.take(random.Random(f"{seed}/{name}/{number}"), folder) else "refused")
    return 0


def watch_writes() -> list[str]:
    """A list that grows by every path that Python opens for writing, makes, moves or removes from now on."""
    seen: list[str] = []

    def hear(event: str, arguments: tuple) -> None:
        if event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
            mode, flags = arguments[1], arguments[2]
            writing = isinstance(mode, str) and set(mode) & set("wax+")
            writing = writing or (mode is None and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
            changed = arguments[:1] if writing else ()
        elif event in ("os.mkdir", "os.remove", "os.rmdir", "os.truncate"):
            changed = arguments[:1]
        elif event in ("os.rename", "os.link", "os.symlink"):
            changed = arguments[:2]
        else:
            return
        seen.extend(os.fspath(path) if not isinstance(path, bytes) else os.fsdecode(path) for path in changed)

    sys.addaudithook(hear)
    return seen


def limit_addresses() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESSES, ADDRESSES))


def reset_peak() -> None:
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak() -> int:
    """MB that the process took at most since `reset_peak`."""
    try:
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) >> 10
    except (OSError, IndexError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


if __name__ == "__main__":
    sys.exit(main())
