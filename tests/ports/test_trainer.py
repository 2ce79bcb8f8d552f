"""The port Trainer with real processes: a stand-in fork server that fails on demand, and the real one."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
import uvloop
from fitserve.v1 import data_pb2, model_pb2, training_job_pb2
from fitserve.v1.training_service_pb2 import FitRequest
from fitserve.v1.training_spec_pb2 import TrainingSpec
from sklearn.datasets import load_iris

from service.adapters.trainer_process import ForkServerTrainer
from service.domain.entities import ColumnSpec, Signature, Task, TrainingStep, ValueKind
from service.domain.errors import Reason, ServiceError
from service.domain.ports import (
    Trainer,
    TrainingEnded,
    TrainingEvent,
    TrainingLog,
    TrainingOrder,
    TrainingProgress,
    TrainingRun,
    TrainingStarted,
)

STAND_IN = Path(__file__).with_name("stand_in_fork_server.py")

LOOP_FACTORIES = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
"""The event loops under which each test runs; read by conftest.py."""

MakeOrder = Callable[..., TrainingOrder]


@pytest.fixture
def make_order(tmp_path: Path) -> MakeOrder:
    """Returns a function that makes an order whose model's name tells the stand-in what to do."""
    numbers = iter(range(1000))

    def make(
        behaviour: str,
        memory_limit_bytes: int | None = None,
        spec: Path | None = None,
        signature: Signature | None = None,
    ) -> TrainingOrder:
        job = f"job-{next(numbers)}"
        request = FitRequest(model=behaviour, seed=7)
        request.logistic_regression.SetInParent()
        return TrainingOrder(
            job=job,
            model=behaviour,
            version=3,
            request=request.SerializeToString(),
            task="classification",
            target="species",
            dataset=tmp_path / "dataset",
            dataset_digest="sha256:00",
            cores=2,
            memory_limit_bytes=memory_limit_bytes,
            spec=spec or tmp_path / f"{job}.pb",
            output=tmp_path / job,
            signature=signature,
        )

    return make


def stand_in(*options: str, heartbeat_timeout: float = 120.0) -> AbstractAsyncContextManager[ForkServerTrainer]:
    command = (sys.executable, "-S", "-E", str(STAND_IN), *options)
    return running(ForkServerTrainer(heartbeat_timeout=heartbeat_timeout, command=command))


@asynccontextmanager
async def running(trainer: ForkServerTrainer) -> AsyncIterator[ForkServerTrainer]:
    port: Trainer = trainer  # the type checker proves that it is one
    assert port.idle_interpreters == 0
    await trainer.start()
    try:
        yield trainer
    finally:
        await trainer.stop()


async def all_events(run: TrainingRun) -> list[TrainingEvent]:
    async with asyncio.timeout(60):
        return [event async for event in run.events()]


async def end_of(run: TrainingRun) -> TrainingEnded:
    end = (await all_events(run))[-1]
    assert isinstance(end, TrainingEnded)
    return end


async def first(run: TrainingRun, kind: type[TrainingEvent], count: int = 1) -> list[TrainingEvent]:
    """Returns the first `count` events of a kind."""
    found: list[TrainingEvent] = []
    async with asyncio.timeout(60):
        async for event in run.events():
            found += [event] if isinstance(event, kind) else []
            if len(found) == count:
                return found
    raise AssertionError(f"the run ended after {found}")


async def printed_pids(run: TrainingRun) -> list[int]:
    """Returns the ids that the processes of the behaviour `family` print."""
    return [int(line) for line in log_lines(await first(run, TrainingLog, 3))]


def log_lines(events: list[TrainingEvent]) -> list[str]:
    return [event.line for event in events if isinstance(event, TrainingLog)]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - a condition of another process
            await asyncio.sleep(0.005)


def children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


def fork_servers() -> list[int]:
    """Returns the process ids of the fork servers; other tests' services may be children too."""
    return [pid for pid in children(os.getpid()) if b"socket-fd" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def fork_server() -> int:
    """Returns the process id of the only fork server."""
    (pid,) = fork_servers()
    return pid


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def open_files() -> dict[str, str]:
    return {entry.name: os.readlink(entry) for entry in Path("/proc/self/fd").iterdir() if entry.is_symlink()}


async def test_a_run_tells_its_events_in_order_and_its_end_last(make_order: MakeOrder) -> None:
    async with stand_in() as trainer:
        events = await all_events(await trainer.run(make_order("good")))

    assert [event for event in events if not isinstance(event, (TrainingLog, TrainingEnded))] == [
        TrainingStarted(120, 30),
        TrainingProgress(TrainingStep(1, 2, "round", {"loss": 0.5}), 0.5),
        TrainingProgress(TrainingStep(2, 2, "round", {"loss": 0.25}), 1.0),
    ]
    assert log_lines(events) == ["half of the work", "all of the work", "no end of line"]
    end = events[-1]
    assert isinstance(end, TrainingEnded)
    assert (end.exit_code, end.reason, end.metrics) == (0, "", {"accuracy": 0.9})
    assert end.peak_memory_bytes > 1_000_000
    assert sum(isinstance(event, TrainingEnded) for event in events) == 1


async def test_the_process_reads_the_order_from_its_spec(make_order: MakeOrder) -> None:
    signature = Signature(
        Task.CLASSIFICATION,
        (2,),
        (ColumnSpec("a", ValueKind.NUMBER), ColumnSpec("b", ValueKind.BOOLEAN)),
        True,
        (1, 2, 3),
        ValueKind.INTEGER,
    )
    order = make_order("good", memory_limit_bytes=1 << 30, signature=signature)
    async with stand_in() as trainer:
        await end_of(await trainer.run(order))

    spec = TrainingSpec.FromString(order.spec.read_bytes())
    assert (spec.job, spec.version, spec.cores) == (order.job, 3, 2)
    assert (spec.dataset_uri, spec.dataset_digest, spec.output_uri) == (
        str(order.dataset), "sha256:00", str(order.output)
    )  # fmt: skip
    assert spec.request.WhichOneof("algorithm") == "logistic_regression"
    assert (spec.request.seed, spec.request.target, spec.request.memory_limit_bytes) == (
        7,
        "species",
        1 << 30,
    )
    assert spec.request.task == spec.signature.task == training_job_pb2.TASK_CLASSIFICATION
    assert list(spec.signature.shape) == [2]
    assert [(column.name, column.kind) for column in spec.signature.columns] == [
        ("a", model_pb2.COLUMN_KIND_NUMBER), ("b", model_pb2.COLUMN_KIND_BOOLEAN)
    ]  # fmt: skip
    assert [label.number_value for label in spec.signature.classes] == [1, 2, 3]
    assert spec.signature.missing_values
    assert spec.signature.prediction_dtype == data_pb2.DATA_TYPE_INT64


@pytest.mark.parametrize(
    ("labels", "kind", "field"),
    [(("a", "b"), ValueKind.CATEGORY, "string_value"), ((False, True), ValueKind.BOOLEAN, "bool_value")],
)
async def test_labels_keep_their_type_in_the_spec(
    make_order: MakeOrder, labels: tuple[str | bool, ...], kind: ValueKind, field: str
) -> None:
    signature = Signature(Task.CLASSIFICATION, (1,), (), False, labels, kind)
    order = make_order("good", signature=signature)
    async with stand_in() as trainer:
        await end_of(await trainer.run(order))

    classes = TrainingSpec.FromString(order.spec.read_bytes()).signature.classes
    assert [label.WhichOneof("kind") for label in classes] == [field, field]
    assert tuple(getattr(label, field) for label in classes) == labels


async def test_runs_go_on_side_by_side(make_order: MakeOrder) -> None:
    async with stand_in() as trainer:
        runs = [await trainer.run(make_order("good")) for _ in range(20)]
        ends = await asyncio.gather(*map(end_of, runs))
        assert [end.exit_code for end in ends] == [0] * 20
        assert len({run.pid for run in runs}) == 20
        assert trainer.active_pids == ()


async def test_the_idle_interpreter_counts_from_when_it_is_ready(make_order: MakeOrder) -> None:
    async with stand_in("--import-seconds=0.3") as trainer:
        assert trainer.idle_interpreters == 0
        run = await trainer.run(make_order("good"))
        assert run.pid == 0
        await until(lambda: trainer.idle_interpreters == 1)
        assert (await end_of(run)).exit_code == 0
    assert trainer.idle_interpreters == 0


async def test_active_processes_are_told_by_their_ids(make_order: MakeOrder) -> None:
    async with stand_in() as trainer:
        run = await trainer.run(make_order("endless"))
        await first(run, TrainingStarted)
        assert trainer.active_pids == (run.pid,)
        assert os.getpgid(run.pid) == run.pid


async def test_a_full_disk_is_told_before_anything_starts(make_order: MakeOrder) -> None:
    async with stand_in() as trainer:
        with pytest.raises(ServiceError) as caught:
            await trainer.run(make_order("good", spec=Path("/dev/full")))
        assert caught.value.reason == Reason.DISK_FULL
        assert trainer.active_pids == ()


async def test_an_interpreter_that_is_missing_is_told(tmp_path: Path) -> None:
    with pytest.raises(ServiceError) as caught:
        await ForkServerTrainer(python=tmp_path / "python").start()
    assert caught.value.reason == Reason.TRAINING_FAILED
    assert str(tmp_path) not in caught.value.message


async def test_a_refused_request_names_its_field(make_order: MakeOrder) -> None:
    async with stand_in() as trainer:
        end = await end_of(await trainer.run(make_order("refused")))
    assert (end.exit_code, end.reason, end.field) == (2, "INVALID_FIELD", "inline.targets")
    assert end.message == "there are no two classes"


async def test_a_crash_is_told_by_its_signal_and_hurts_nobody_else(make_order: MakeOrder) -> None:
    async with stand_in() as trainer:
        other = await trainer.run(make_order("endless"))
        end = await end_of(await trainer.run(make_order("crash")))
        assert (end.exit_code, end.reason) == (-signal.SIGSEGV, "")
        assert alive(other.pid)


async def test_garbage_among_the_events_is_ignored(make_order: MakeOrder) -> None:
    async with stand_in() as trainer:
        events = await all_events(await trainer.run(make_order("garbage")))
    assert sum(isinstance(event, TrainingProgress) for event in events) == 2
    end = events[-1]
    assert isinstance(end, TrainingEnded)
    assert (end.exit_code, end.reason, end.metrics) == (0, "", {"accuracy": 0.9})


@pytest.mark.parametrize(
    "behaviour",
    ["deep", "long_number", "absurd_rows", "absurd_step", "absurd_metric", "absurd_progress", "absurd_memory"],
)
async def test_events_that_make_no_sense_end_the_run_as_failed_and_hurt_nobody_else(
    make_order: MakeOrder, behaviour: str
) -> None:
    async with stand_in() as trainer:
        other = await trainer.run(make_order("endless"))
        run = await trainer.run(make_order(behaviour))
        events = await all_events(run)
        end = events[-1]
        assert isinstance(end, TrainingEnded)
        assert (end.exit_code, end.reason) == (-signal.SIGKILL, "TRAINING_FAILED")
        assert "makes no sense" in end.message
        assert end.peak_memory_bytes < 2**62
        assert not any(isinstance(event, TrainingProgress) for event in events)
        assert not alive(run.pid)
        assert alive(other.pid)


async def test_a_fork_server_that_hangs_in_its_imports_is_replaced(make_order: MakeOrder) -> None:
    command = (sys.executable, "-S", "-E", str(STAND_IN), "--import-seconds=600")
    async with running(ForkServerTrainer(command=command, start_timeout=0.3)) as trainer:
        hanging = fork_server()
        end = await end_of(await trainer.run(make_order("good")))
        assert end.reason == "TRAINER_DIED"
        assert not alive(hanging)
        await until(lambda: bool(fork_servers()) and fork_server() != hanging)


async def test_a_fork_server_that_is_ready_in_time_lives_on(make_order: MakeOrder) -> None:
    command = (sys.executable, "-S", "-E", str(STAND_IN))
    async with running(ForkServerTrainer(command=command, start_timeout=1.0)) as trainer:
        await until(lambda: trainer.idle_interpreters == 1)
        server = fork_server()
        await asyncio.sleep(1.2)  # longer than the time-out
        assert fork_server() == server
        assert (await end_of(await trainer.run(make_order("good")))).exit_code == 0


async def test_a_long_line_is_cut_and_bytes_that_are_no_text_are_replaced(make_order: MakeOrder) -> None:
    async with stand_in() as trainer:
        lines = log_lines(await all_events(await trainer.run(make_order("noisy"))))
    assert lines == ["x" * 4096 + " [...]", "caf\N{REPLACEMENT CHARACTER}"]


async def test_a_flood_of_lines_arrives_whole_even_if_nobody_reads_for_a_while(make_order: MakeOrder) -> None:
    async with stand_in() as trainer:
        run = await trainer.run(make_order("flood"))
        await until(lambda: run.pid != 0)
        await asyncio.sleep(0.1)  # nobody reads
        lines = log_lines(await all_events(run))
    assert lines == [str(number) for number in range(20_000)]


async def test_a_kill_ends_the_whole_family_within_two_seconds(make_order: MakeOrder) -> None:
    async with stand_in() as trainer:
        run = await trainer.run(make_order("family"))
        pids = await printed_pids(run)
        begin = time.monotonic()
        await run.kill()
        assert time.monotonic() - begin < 2
        assert not any(map(alive, pids))
        await run.kill()
        assert (await end_of(run)).exit_code == -signal.SIGKILL


async def test_a_run_killed_before_its_process_exists_ends_all_the_same(make_order: MakeOrder) -> None:
    async with stand_in("--import-seconds=0.3") as trainer:
        waiting = await trainer.run(make_order("endless"))
        await waiting.kill()
        assert (await end_of(waiting)).exit_code == -signal.SIGKILL
        await until(lambda: trainer.idle_interpreters == 1)
        asked = await trainer.run(make_order("endless"))
        assert asked.pid == 0
        await asked.kill()
        assert (await end_of(asked)).exit_code == -signal.SIGKILL
        assert not children(fork_server())


async def test_two_kills_at_once_both_return(make_order: MakeOrder) -> None:
    async with stand_in() as trainer:
        run = await trainer.run(make_order("endless"))
        await asyncio.gather(run.kill(), run.kill(), end_of(run))


async def test_a_kill_returns_although_the_fork_server_hangs(make_order: MakeOrder) -> None:
    async with stand_in() as trainer:
        run = await trainer.run(make_order("endless"))
        await first(run, TrainingStarted)
        os.kill(fork_server(), signal.SIGSTOP)
        begin = time.monotonic()
        await run.kill()
        assert time.monotonic() - begin < 2
        assert not alive(run.pid)


async def test_a_child_left_behind_ends_with_the_run(make_order: MakeOrder) -> None:
    async with stand_in() as trainer:
        events = await all_events(await trainer.run(make_order("stray")))
        assert not alive(int(log_lines(events)[0]))
        end = events[-1]
        assert isinstance(end, TrainingEnded)
        assert end.exit_code == 0


async def test_a_pipe_held_outside_of_the_group_delays_the_end_only_a_little(make_order: MakeOrder) -> None:
    async with stand_in() as trainer:
        begin = time.monotonic()
        events = await all_events(await trainer.run(make_order("daemon")))
        os.kill(int(log_lines(events)[0]), signal.SIGKILL)
        assert time.monotonic() - begin < 2


async def test_a_silent_process_is_killed(make_order: MakeOrder) -> None:
    async with stand_in(heartbeat_timeout=0.3) as trainer:
        run = await trainer.run(make_order("silent"))
        end = await end_of(run)
        assert (end.exit_code, end.reason) == (-signal.SIGKILL, "TRAINING_FAILED")
        assert "no sign of life for 0.3 s" in end.message
        assert not alive(run.pid)


async def test_a_process_that_beats_or_waits_for_imports_is_not_silent(make_order: MakeOrder) -> None:
    async with stand_in("--import-seconds=0.8", heartbeat_timeout=0.4) as trainer:
        run = await trainer.run(make_order("endless"))
        await first(run, TrainingStarted)
        await asyncio.sleep(0.8)  # twice the time-out
        assert alive(run.pid)


async def test_a_fork_server_that_takes_orders_and_does_nothing_is_replaced(make_order: MakeOrder) -> None:
    async with stand_in("--deaf", heartbeat_timeout=0.3) as trainer:
        await until(lambda: trainer.idle_interpreters == 1)
        deaf = fork_server()
        end = await end_of(await trainer.run(make_order("good")))
        assert end.reason == "TRAINER_DIED"
        await until(lambda: trainer.idle_interpreters == 1)
        assert fork_server() != deaf


@pytest.mark.parametrize("behaviour", ["hog", "hog_by_child"])
async def test_memory_above_the_limit_ends_the_run(make_order: MakeOrder, behaviour: str) -> None:
    async with stand_in() as trainer:
        end = await end_of(await trainer.run(make_order(behaviour, memory_limit_bytes=100_000_000)))
    assert (end.exit_code, end.reason) == (-signal.SIGKILL, "TRAINER_OOM")
    assert "100000000 bytes of memory_limit_bytes" in end.message


@pytest.mark.parametrize(("behaviour", "exit_code"), [("abort", -signal.SIGABRT), ("leave", 1)])
@pytest.mark.parametrize(("limit", "reason"), [(100_000_000, "TRAINER_OOM"), (None, "")])
async def test_a_library_that_ends_its_process_under_a_limit_had_no_memory(
    make_order: MakeOrder, behaviour: str, exit_code: int, limit: int | None, reason: str
) -> None:
    async with stand_in() as trainer:
        end = await end_of(await trainer.run(make_order(behaviour, memory_limit_bytes=limit)))
    assert (end.exit_code, end.reason) == (exit_code, reason)


async def test_a_training_that_tells_why_it_failed_under_a_limit_is_believed(make_order: MakeOrder) -> None:
    async with stand_in() as trainer:
        end = await end_of(await trainer.run(make_order("told", memory_limit_bytes=100_000_000)))
    assert (end.exit_code, end.reason, end.message) == (1, "TRAINING_FAILED", "the training failed")


async def test_memory_below_the_limit_is_fine(make_order: MakeOrder) -> None:
    async with stand_in() as trainer:
        run = await trainer.run(make_order("hog", memory_limit_bytes=300_000_000))
        await first(run, TrainingStarted)
        await asyncio.sleep(0.5)  # two looks at its memory
        assert alive(run.pid)


async def test_the_death_of_the_fork_server_ends_every_run_and_the_next_one_works(
    make_order: MakeOrder,
) -> None:
    async with stand_in() as trainer:
        runs = [await trainer.run(make_order("family")) for _ in range(2)]
        pids = [pid for run in runs for pid in await printed_pids(run)]
        begin = time.monotonic()
        os.kill(fork_server(), signal.SIGKILL)
        ends = await asyncio.gather(*map(end_of, runs))
        assert [(end.exit_code, end.reason) for end in ends] == [(-signal.SIGKILL, "TRAINER_DIED")] * 2
        assert time.monotonic() - begin < 2
        assert not any(map(alive, pids))
        assert (await end_of(await trainer.run(make_order("good")))).exit_code == 0


async def test_an_order_given_while_there_is_no_fork_server_waits_for_the_next(make_order: MakeOrder) -> None:
    async with stand_in() as trainer:
        await until(lambda: trainer.idle_interpreters == 1)
        os.kill(fork_server(), signal.SIGKILL)
        runs = [await trainer.run(make_order("good"))]
        await until(lambda: trainer.idle_interpreters == 0)
        runs.append(await trainer.run(make_order("good")))
        ends = await asyncio.gather(*map(end_of, runs))
        assert ends[1].exit_code == 0


async def test_a_fork_server_that_cannot_import_ends_the_orders_that_wait_for_it(
    make_order: MakeOrder, tmp_path: Path
) -> None:
    command = (sys.executable, "-c", "import sys; sys.exit('no such library')")
    async with running(ForkServerTrainer(command=command)) as trainer:
        end = await end_of(await trainer.run(make_order("good")))
        assert end.reason == "TRAINER_DIED"


async def test_stop_ends_everything_within_two_seconds_and_leaks_nothing(make_order: MakeOrder) -> None:
    others = children(os.getpid())  # of other tests of this worker
    await asyncio.to_thread(int)  # the thread pool's own descriptors come first
    before = open_files()
    async with stand_in() as trainer:
        runs = [await trainer.run(make_order("family")), await trainer.run(make_order("silent"))]
        pids = await printed_pids(runs[0])
        await until(lambda: all(run.pid for run in runs))
        pids += [runs[1].pid, fork_server()]
        runs.append(await trainer.run(make_order("endless")))
        begin = time.monotonic()
    assert time.monotonic() - begin < 2
    assert not any(map(alive, pids))
    assert children(os.getpid()) == others
    assert [(await end_of(run)).reason for run in runs] == ["", "", ""]
    assert open_files().keys() == before.keys()
    with pytest.raises(ServiceError):
        await trainer.run(make_order("good"))


async def test_stop_does_not_wait_for_imports(make_order: MakeOrder) -> None:
    async with stand_in("--import-seconds=60") as trainer:
        run = await trainer.run(make_order("good"))
        begin = time.monotonic()
    assert time.monotonic() - begin < 1
    assert (await end_of(run)).exit_code == -signal.SIGKILL


async def test_stop_works_while_the_fork_server_is_away(make_order: MakeOrder) -> None:
    others = children(os.getpid())  # of other tests of this worker
    async with stand_in() as trainer:
        await until(lambda: trainer.idle_interpreters == 1)
        os.kill(fork_server(), signal.SIGKILL)
        await until(lambda: trainer.idle_interpreters == 0)
        run = await trainer.run(make_order("good"))
    assert (await end_of(run)).exit_code == -signal.SIGKILL
    assert children(os.getpid()) == others


async def test_the_real_fork_server_trains_a_model(tmp_path: Path) -> None:
    iris = load_iris()
    dataset = tmp_path / "dataset"
    dataset.mkdir()
    iris.data.astype("<f4").tofile(dataset / "features.bin")
    np.asarray(iris.target, "<i4").tofile(dataset / "targets.bin")
    targets = {
        "name": "",
        "kind": "category",
        "file": "targets.bin",
        "dtype": "<i4",
        "vocabulary": list(iris.target_names),
    }
    description = {
        "format": "fitserve-dataset-1",
        "row_count": 150,
        "features": {"file": "features.bin", "dtype": "<f4", "shape": [4]},
        "columns": [],
        "targets": targets,
    }
    (dataset / "dataset.json").write_text(json.dumps(description))
    request = FitRequest(model="iris")
    request.logistic_regression.SetInParent()
    order = TrainingOrder(
        job="job-1",
        model="iris",
        version=1,
        request=request.SerializeToString(),
        task="classification",
        target="",
        dataset=dataset,
        dataset_digest="sha256:00",
        cores=1,
        memory_limit_bytes=1 << 30,
        spec=tmp_path / "spec.pb",
        output=tmp_path / "version",
        signature=None,
    )
    async with running(ForkServerTrainer()) as trainer:
        events = await all_events(await trainer.run(order))

    end = events[-1]
    assert isinstance(end, TrainingEnded)
    assert (end.exit_code, end.message, log_lines(events)) == (0, "", [])
    assert end.metrics["accuracy"] > 0.8
    assert (order.output / "model.onnx").is_file()
