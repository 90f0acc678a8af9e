"""A stand-in for Ray, which is too large for CI: as much of it as places/ray_cluster.py uses, on this machine alone.

As there, an actor is a process of its own, what goes to and fro is pickled, calls are answered in their order, and
those of a process that died raise RayActorError. tests/benchmarks/ray_rows.py runs such rows on the real one.
"""

import multiprocessing
import multiprocessing.connection
import time
import traceback
from types import SimpleNamespace

_SPAWN = multiprocessing.get_context("spawn")
_cluster = None


class RayError(Exception):
    pass


class RayActorError(RayError):
    """The actor's process is gone, or could not begin."""


class RayTaskError(RayError):
    """The call raised; the text ends with what."""


class ObjectLostError(RayError):
    """What a call gave was on a machine that is gone."""


exceptions = SimpleNamespace(
    RayError=RayError, RayActorError=RayActorError, RayTaskError=RayTaskError, ObjectLostError=ObjectLostError
)


def is_initialized():
    return _cluster is not None


def init(address=None, num_cpus=2, **_):
    global _cluster
    if address not in (None, "local"):
        raise ConnectionError(f"Could not find any running Ray instance at {address}")
    _cluster = SimpleNamespace(cores=num_cpus, actors=[])


def shutdown():
    global _cluster
    for actor in _cluster.actors:
        kill(actor)
    _cluster = None


def cluster_resources():
    return {"CPU": float(_cluster.cores), "memory": 1e9}


def remote(**_):
    return lambda cls: SimpleNamespace(remote=lambda *args: _Actor(cls, args))


def kill(actor):
    actor._process.kill()
    actor._process.join()


def wait(references, num_returns=1, timeout=None):
    """(done, not done), after num_returns are done or `timeout` seconds."""
    end = time.monotonic() + (float("inf") if timeout is None else timeout)
    while sum(reference.answer is not None for reference in references) < num_returns and time.monotonic() < end:
        open_ones = {one.actor._connection: one.actor for one in references if one.answer is None}
        for connection in multiprocessing.connection.wait(open_ones, min(end - time.monotonic(), 1.0)):
            open_ones[connection]._read()
    done = [reference for reference in references if reference.answer][:num_returns]
    return done, [reference for reference in references if reference not in done]


def get(reference):
    while not reference.answer:
        reference.actor._read()
    kind, value = reference.answer
    if kind is not None:
        raise kind(value)
    return value


class _Reference:
    def __init__(self, actor):
        self.actor, self.answer = actor, None  # (error or None, value)


class _Actor:
    def __init__(self, cls, args):
        self._connection, theirs = _SPAWN.Pipe()
        self._process = _SPAWN.Process(target=_serve, args=(theirs, cls, args), daemon=True)
        self._process.start()
        theirs.close()
        self._asked = []
        self.last_call = None
        _cluster.actors.append(self)

    def __getattr__(self, name):
        return SimpleNamespace(remote=lambda *args: self._ask(name, args))

    def _ask(self, name, args):
        self.last_call = name
        self._asked.append(reference := _Reference(self))
        try:
            self._connection.send((name, args))
        except OSError:
            self._read()
        return reference

    def _read(self):
        try:
            self._asked[0].answer = self._connection.recv()
            del self._asked[0]
        except (EOFError, OSError):
            for reference in self._asked:
                reference.answer = (RayActorError, "The actor died unexpectedly before finishing this task.")
            self._asked = []


def _serve(connection, cls, args):
    try:
        made, failed = cls(*args), None
    except Exception:
        failed = traceback.format_exc()
    while True:
        try:
            name, args = connection.recv()
        except EOFError:
            return
        if failed:
            answer = RayActorError, f"The actor died because of an error raised in its creation task:\n{failed}"
        else:
            try:
                answer = None, getattr(made, name)(*args)
            except Exception:
                answer = RayTaskError, traceback.format_exc()
        connection.send(answer)
