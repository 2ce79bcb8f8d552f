"""Stand-ins for the ports that the domain's tests need besides the journal: in memory, and breakable on purpose."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from service.domain.entities import (
    AlgorithmTraits,
    ColumnSummary,
    DataBlock,
    Dataset,
    FitOrder,
    Floats,
    Manifest,
    Parity,
    Signature,
    StoredVersion,
    Task,
    ValueKind,
)
from service.domain.errors import Reason, ServiceError
from service.domain.ports import ProcessOrder, TensorStream, TrainingEnded, TrainingEvent, TrainingStarted

START = datetime(2026, 11, 21, tzinfo=UTC)
ROW_BYTES = 8


async def until(condition: Callable[[], bool], seconds: float = 2.0) -> None:
    """Lets the loop run until a condition holds."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - the fakes tell nobody
            await asyncio.sleep(0)


async def turns(count: int = 30) -> None:
    """Lets everything go on that needs no waiting."""
    for _ in range(count):
        await asyncio.sleep(0)


def rows_of(*values: float) -> bytes:
    """Rows of two equal features each."""
    return np.repeat(np.array(values, np.float32), 2).tobytes()


def signature(**changes: object) -> Signature:
    fields: dict[str, object] = {
        "task": Task.CLASSIFICATION,
        "shape": (2,),
        "columns": (),
        "missing_values": False,
        "classes": ("no", "yes"),
        "label_kind": ValueKind.CATEGORY,
    }
    return Signature(**(fields | changes))  # type: ignore[arg-type]


def manifest(model: str, version: int = 1, job: str = "job") -> Manifest:
    return Manifest(
        model=model,
        version=version,
        job=job,
        algorithm="tree",
        parameters={},
        signature=signature(),
        backend="onnxruntime",
        metrics={"accuracy": 0.9},
        parity=Parity(0.0, 1e-5, 10),
        dataset="sha256:0",
        train_rows=8,
        validation_rows=2,
        library_versions={},
        create_time=START,
        size_bytes=100,
    )


class SetClock:
    """A clock that stands until it is set forward."""

    def __init__(self) -> None:
        self.time = START

    def now(self) -> datetime:
        return self.time

    def forward(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)


class Gate:
    """Holds whoever passes through while it is shut."""

    def __init__(self) -> None:
        self._open = asyncio.Event()
        self._open.set()
        self.waiting = 0

    def shut(self) -> None:
        self._open.clear()

    def open(self) -> None:
        self._open.set()

    async def passed(self) -> None:
        self.waiting += 1
        try:
            await self._open.wait()
        finally:
            self.waiting -= 1


def open_gate() -> threading.Event:
    """A gate for what runs in threads."""
    gate = threading.Event()
    gate.set()
    return gate


class FakeStream:
    """A stream whose score is the sum of a row's two features."""

    def __init__(self, inference: FakeInference, model: str, version: int) -> None:
        self._inference = inference
        self.model = model
        self.version = version
        self.closed = asyncio.Event()

    async def infer(self, batch: bytes, rows: int) -> Floats:
        self._inference.batches.append((self.model, self.version, rows))
        passing = asyncio.ensure_future(self._inference.infer_gate.passed())
        closing = asyncio.ensure_future(self.closed.wait())
        try:
            await asyncio.wait([passing, closing], return_when=asyncio.FIRST_COMPLETED)
        finally:
            passing.cancel()
            closing.cancel()
        if self.closed.is_set() or not self._inference.alive:
            raise ServiceError(Reason.TRITON_UNAVAILABLE, "the stream is closed")
        if (error := self._inference.infer_errors.get(self.model)) is not None:
            raise error
        scores: Floats = np.frombuffer(batch, np.float32).reshape(rows, 2).sum(axis=1, keepdims=True)
        return scores

    async def close(self) -> None:
        self.closed.set()


class FakeInference:
    """An inference server that can die, refuse and dawdle.

    Attributes:
        held: The versions that it holds, by model.
        instances: How many copies of each, by model.
        calls: The loads and unloads, in order.
        load_errors: What the load of a model raises.
        unload_errors: What the unload of a model raises.
        infer_errors: What a batch of a model raises.
    """

    embedded = True
    version = "2.51.0"
    address = "127.0.0.1:8001"

    def __init__(self) -> None:
        self.alive = True
        self.held: dict[str, list[int]] = {}
        self.instances: dict[str, int] = {}
        self.calls: list[tuple[str, str]] = []
        self.batches: list[tuple[str, int, int]] = []
        self.streams: list[FakeStream] = []
        self.load_errors: dict[str, Exception] = {}
        self.unload_errors: dict[str, Exception] = {}
        self.infer_errors: dict[str, Exception] = {}
        self.start_errors: list[ServiceError] = []
        self.starts = 0
        self.load_gate = Gate()
        self.infer_gate = Gate()
        self._down = asyncio.Event()

    async def start(self) -> None:
        self.starts += 1
        if self.start_errors:
            raise self.start_errors.pop(0)
        self.alive = True
        self._down = asyncio.Event()

    def die(self) -> None:
        self.alive = False
        self.held.clear()
        for stream in self.streams:
            stream.closed.set()
        self._down.set()

    async def wait_until_down(self) -> str:
        await self._down.wait()
        return "it was killed"

    async def stop(self) -> None:
        self.die()

    async def serve(self, manifest: Manifest, beside: Sequence[Manifest], instances: int) -> None:
        versions = sorted(one.version for one in (manifest, *beside))
        self.calls.append(("serve", f"{manifest.model} {','.join(map(str, versions))}"))
        self._check_alive()
        await self.load_gate.passed()
        self._check_alive()
        if (error := self.load_errors.get(manifest.model)) is not None:
            raise error
        self.held[manifest.model] = versions
        self.instances[manifest.model] = instances

    async def unload(self, model: str) -> None:
        self.calls.append(("unload", model))
        self._check_alive()
        if (error := self.unload_errors.get(model)) is not None:
            raise error
        self.held.pop(model, None)

    async def loaded_models(self) -> set[str]:
        self._check_alive()
        return set(self.held)

    def open_stream(self, manifest: Manifest) -> FakeStream:
        self.streams.append(FakeStream(self, manifest.model, manifest.version))
        return self.streams[-1]

    def open_tensor_stream(self, manifest: Manifest) -> TensorStream:
        raise NotImplementedError("no model of these tests takes named tensors")

    def _check_alive(self) -> None:
        if not self.alive:
            raise ServiceError(Reason.TRITON_UNAVAILABLE, "Triton is away")


class FakeArtifacts:
    """A model repository in memory."""

    def __init__(self) -> None:
        self.stored: dict[tuple[str, int], StoredVersion] = {}
        self.discarded: list[str] = []
        self.unknown: list[str] = []
        self.publish_error: Exception | None = None
        self.verify_error: Exception | None = None
        self.discard_error: Exception | None = None

    def put(self, model: str, version: int = 1, job: str = "job", error: ServiceError | None = None) -> StoredVersion:
        content = None if error else manifest(model, version, job)
        self.stored[model, version] = StoredVersion(model, version, content, error)
        return self.stored[model, version]

    def job_directory(self, job: str) -> Path:
        return Path("jobs") / job

    def staging_directory(self, job: str) -> Path:
        return Path("staging") / job

    def discard(self, job: str) -> None:
        self.discarded.append(job)
        if self.discard_error is not None:
            raise self.discard_error

    def file_writer(self, job: str) -> FakeFile:
        return FakeFile()

    def imported_file(self, job: str) -> Path:
        return Path("jobs") / job / "file"

    def publish(self, job: str, model: str, version: int) -> Manifest:
        if self.publish_error is not None:
            raise self.publish_error
        self.put(model, version, job)
        return manifest(model, version, job)

    def stored_versions(self) -> list[StoredVersion]:
        return list(self.stored.values())

    def verify(self, model: str, version: int) -> Manifest:
        if self.verify_error is not None:
            raise self.verify_error
        return manifest(model, version)

    def remove(self, model: str, version: int | None) -> None:
        for key in [key for key in self.stored if key[0] == model and version in (None, key[1])]:
            del self.stored[key]

    def of_operator(self, model: str) -> bool:
        return any(stored.of_operator for stored in self.stored.values() if stored.model == model)

    def operator_versions(self) -> list[StoredVersion]:
        return [stored for stored in self.stored.values() if stored.of_operator]

    def clean(self) -> list[str]:
        return self.unknown


class FakeFile:
    """Takes any bytes, and has one digest for all."""

    def append(self, content: bytes) -> None:
        pass

    def finish(self) -> str:
        return "sha256:1"


def summary(name: str = "", kind: ValueKind = ValueKind.NUMBER, **counts: int) -> ColumnSummary:
    return ColumnSummary(name, kind, **({"distinct": 2, "missing": 0, "infinite": 0} | counts))


def dataset(**changes: object) -> Dataset:
    fields: dict[str, object] = {
        "digest": "sha256:0",
        "rows": 10,
        "shape": (2,),
        "features": summary(),
        "columns": (),
        "targets": summary(kind=ValueKind.INTEGER),
        "size_bytes": 100,
        "create_time": START,
    }
    return Dataset(**(fields | changes))  # type: ignore[arg-type]


class FakeWriter:
    """Takes any data, and says that it is the usual dataset."""

    def __init__(self, datasets: FakeDatasets) -> None:
        self._datasets = datasets

    def append(self, block: DataBlock) -> None:
        assert self._datasets.write_gate.wait(5)
        if self._datasets.write_error is not None:
            raise self._datasets.write_error

    def digest(self) -> str:
        return "sha256:0"

    def finish(self, display_name: str, create_time: datetime) -> Dataset:
        return self._datasets.inline

    def abort(self) -> None:
        self._datasets.aborts += 1


class FakeDatasets:
    """Datasets in memory, whose writing and deleting can be held up."""

    def __init__(self) -> None:
        self.shared: dict[str, Dataset] = {}
        self.inline = dataset()
        self.write_error: ServiceError | None = None
        self.write_gate = open_gate()
        self.delete_gate = open_gate()
        self.writers = 0
        self.deletes = 0
        self.aborts = 0

    def writer(self, job: str | None) -> FakeWriter:
        self.writers += 1
        return FakeWriter(self)

    def path(self, digest: str) -> Path:
        return Path("datasets") / digest

    def inline_path(self, job: str) -> Path:
        return Path("jobs") / job / "data"

    def get(self, digest: str) -> Dataset | None:
        return self.shared.get(digest)

    def list(self) -> Sequence[Dataset]:
        return [*self.shared.values()]

    def delete(self, digest: str) -> None:
        self.deletes += 1
        assert self.delete_gate.wait(5)
        del self.shared[digest]


class FakeRun:
    """A training process that does what the test says."""

    def __init__(self, order: ProcessOrder, pid: int) -> None:
        self.order = order
        self.pid = pid
        self.killed = False
        self._events: asyncio.Queue[TrainingEvent] = asyncio.Queue()

    def say(self, *events: TrainingEvent) -> None:
        for event in events:
            self._events.put_nowait(event)

    def end(self, exit_code: int = 0, **details: str) -> None:
        self.say(TrainingEnded(exit_code, 1000, 0.5, **details))  # type: ignore[arg-type]

    async def events(self) -> AsyncIterator[TrainingEvent]:
        while True:
            event = await self._events.get()
            yield event
            if isinstance(event, TrainingEnded):
                return

    async def kill(self) -> None:
        if not self.killed:
            self.killed = True
            self.end(-9)


class FakeTrainer:
    """Starts trainings that wait for the test, or succeed by themselves with `at_once`."""

    idle_interpreters = 1

    def __init__(self) -> None:
        self.runs: list[FakeRun] = []
        self.at_once = False
        self.error: ServiceError | None = None
        self.gate = Gate()

    async def start(self) -> None:
        pass

    async def stop(self) -> None:
        for run in self.runs:
            await run.kill()

    async def run(self, order: ProcessOrder) -> FakeRun:
        await self.gate.passed()
        if self.error is not None:
            raise self.error
        self.runs.append(FakeRun(order, 1000 + len(self.runs)))
        if self.at_once:
            self.runs[-1].say(TrainingStarted(8, 2))
            self.runs[-1].end()
        return self.runs[-1]


TREE = AlgorithmTraits("tree", classification=True, regression=True, missing_values=False, images=False)


def order(model: str = "iris", **changes: object) -> FitOrder:
    fields: dict[str, object] = {
        "model": model,
        "algorithm": TREE,
        "task": None,
        "request": b"request",
        "request_id": "",
        "request_hash": "hash",
        "data": DataBlock(10, np.zeros((10, 2), np.float32), (), None),
        "target": "",
        "cores": 1,
        "time_limit": None,
        "memory_limit_bytes": None,
        "queue": False,
        "new_version": False,
        "load": False,
    }
    return FitOrder(**(fields | changes))  # type: ignore[arg-type]
