"""Everybody who is measured, set up on one machine, of whom only one runs at a time."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

import fitserve

from benchmarks.checks import WrongAnswer, reply_bytes
from benchmarks.environments import EnvironmentFailed
from benchmarks.models import Model, models, train
from benchmarks.server_process import Server, ServerFailed, StartedServer
from benchmarks.subjects import mlserver
from benchmarks.subjects.bentoml import BentoMl
from benchmarks.subjects.echo import Echo
from benchmarks.subjects.fastapi import FastApi
from benchmarks.subjects.fitserve_service import FitServe
from benchmarks.subjects.ray_serve import RayServe
from benchmarks.subjects.triton import Triton
from benchmarks.work import Predictions, Subject, Work

READY_SECONDS = 5.0
"""How long one call may take while a subject starts."""


class Stage:
    """All subjects, for the length of a with statement.

    Attributes:
        fitserve: FitServe.
        models: The models by name.
        expected: Their predictions for the first rows, which every subject must give.
        subjects: All that run, by name.
        missing: Why the others do not, by name.
    """

    def __init__(self, directory: Path, wanted: Container[str], say: Callable[[str], None]) -> None:
        """Starts all subjects, and freezes them.

        Args:
            directory: For what they write.
            wanted: The names of those to start; FitServe and Triton always do.
            say: Told of each step.
        """
        self._say = say
        self._wanted = wanted
        self._stack = ExitStack()
        self.models: dict[str, Model] = models()
        self.subjects: dict[str, Subject] = {}
        self.missing: dict[str, str] = {}
        self._said: dict[str, str] = {}
        with self._stack:
            say("starting FitServe and training the models")
            self.fitserve = FitServe(directory / "fitserve", self.models)
            self._stack.callback(self.fitserve.process.stop)
            self.subjects["fitserve"] = self.fitserve
            with fitserve.Client(self.fitserve.address) as client:
                self.expected: dict[str, Predictions] = train(client, self.models)
            self.subjects["triton"] = Triton(self.fitserve.triton_address, self.fitserve.triton, self.models)
            self._start_further("fitserve-1", directory)
            self._start("grpc-echo", lambda: Echo("asyncio", directory, self.fitserve, self.expected))
            self._start("grpc-echo-uvloop", lambda: Echo("uvloop", directory, self.fitserve, self.expected))
            self._start("fastapi-triton", lambda: self._fastapi(directory))
            for name in mlserver.SET_UPS:
                self._start(name, partial(mlserver.MlServer, name, directory, self.models))
            self._start("bentoml", lambda: BentoMl(directory, self.models))
            self._start("ray-serve", lambda: RayServe(directory, self.fitserve, self.models))
            for server in reversed(self.fitserve.servers):
                server.freeze()
            self._stack = self._stack.pop_all()

    def _start(self, name: str, start: Callable[[], Subject]) -> None:
        if name not in self._wanted:
            return
        self._say(f"starting {name}")
        try:
            subject = start()
            for server in subject.servers:
                if isinstance(server, StartedServer):
                    self._stack.callback(server.stop)
                    server.wait_until(lambda: self._answers(subject))
                    server.freeze()
        except (EnvironmentFailed, ServerFailed) as error:
            self.missing[name] = f"{error} {self._said.get(name, '')}".strip()
            self._say(f"{name} is missing: {self.missing[name]}")
            return
        self.subjects[name] = subject

    def _start_further(self, name: str, directory: Path) -> None:
        """Starts a FitServe that predicts in one process, with the same models and a Triton of its own."""
        if name not in self._wanted:
            return
        self._say(f"starting {name}")
        subject = FitServe(directory / name, self.models, PREDICTION_PROCESSES="1")
        self._stack.callback(subject.process.stop)
        with fitserve.Client(subject.address) as client:
            train(client, self.models)
        for server in reversed(subject.servers):
            server.freeze()
        self.subjects[name] = subject

    def _answers(self, subject: Subject) -> bool:
        """Returns whether a subject answers a call of each of its models rightly."""
        calls = {model: subject.call(Work(model, 1, 1)) for model in self.models}
        try:
            for model, call in calls.items():
                if call:
                    reply_bytes(call, self.expected[model][:1], READY_SECONDS)
        except WrongAnswer as error:
            self._said[subject.name] = str(error)
            return False
        return True

    def _fastapi(self, directory: Path) -> FastApi:
        return FastApi(directory, self.fitserve.triton_address, self.fitserve.triton, self.models)

    @contextmanager
    def only(self, servers: Sequence[Server]) -> Iterator[None]:
        """Lets some servers run while all others stand still."""
        for server in servers:
            server.thaw()
        try:
            yield
        finally:
            for server in reversed(servers):
                server.freeze()

    def __enter__(self) -> Self:
        """Returns the stage."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Ends all subjects."""
        self._stack.close()
