"""The way in for models that were trained elsewhere: one file comes, a process of its own makes a version of it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from service.domain.entities import ImportOrder, Manifest, StoredVersion
from service.domain.errors import Reason, ServiceError, invalid
from service.domain.ids import new_import_id
from service.domain.import_ends import failure_of
from service.domain.ports import (
    Artifacts,
    Clock,
    ConversionOrder,
    FileWriter,
    Trainer,
    TrainingEnded,
    TrainingLog,
    TrainingStarted,
)
from service.domain.registry import Registry

log = logging.getLogger("fitserve.imports")

MAX_UPLOADS = 16
"""The most imports at one time, of which all but one wait or receive their file."""

RETRY_SECONDS = 30.0
"""When to try again if there are too many."""

STOP_SECONDS = 10.0
"""How long a drain waits for imports that it has stopped."""

_WISH = "new_version"


@dataclass(frozen=True)
class ImportLimits:
    """What an import may use.

    Attributes:
        enabled: Whether models are imported at all.
        file_bytes: The largest file.
        memory_bytes: The memory of the process.
        seconds: The time of the process.
        torchscript: Whether TorchScript is taken, which runs the callers' code.
    """

    enabled: bool
    file_bytes: int
    memory_bytes: int
    seconds: float
    torchscript: bool = False


@dataclass(frozen=True)
class Imported:
    """An import that has succeeded.

    Attributes:
        load_error: Why the version could not be loaded although that was asked for, or None.
    """

    version: int
    load_error: ServiceError | None


class Upload:
    """A file that is being received."""

    def __init__(self, job: str, order: ImportOrder, writer: FileWriter, limit_bytes: int) -> None:
        self.job = job
        self.order = order
        self.digest = ""
        self._writer = writer
        self._limit_bytes = limit_bytes
        self._size = 0

    def append(self, content: bytes) -> None:
        """Writes the next bytes; blocks. Raises ServiceError MESSAGE_TOO_LARGE or DISK_FULL."""
        self._size += len(content)
        if self._size > self._limit_bytes:
            raise ServiceError(
                Reason.MESSAGE_TOO_LARGE,
                f"the file is larger than the {self._limit_bytes} bytes that are allowed (IMPORT_FILE_BYTES); import a "
                "smaller model, or ask the operator for a larger limit",
                {"limit_bytes": str(self._limit_bytes), "setting": "IMPORT_FILE_BYTES"},
            )
        self._writer.append(content)

    def finish(self) -> None:
        """Ends the file; blocks. Raises ServiceError INVALID_FIELD if it is empty, DIGEST_MISMATCH, DISK_FULL."""
        self.digest = self._writer.finish()
        if not self._size:
            raise invalid("content", "the file is empty; send it in the messages after the description")
        if self.order.digest and self.digest != self.order.digest:
            raise ServiceError(
                Reason.DIGEST_MISMATCH,
                f"the file has the digest {self.digest} and the description says {self.order.digest}; send it again",
                {"model": self.order.model, "expected": self.order.digest, "actual": self.digest},
            )

    def close(self) -> None:
        """Closes the file, whole or not; blocks."""
        self._writer.finish()


class Imports:
    """Receives files, has them made into versions one after the other, and publishes these.

    Args:
        trainer: Starts the processes.
    """

    def __init__(
        self, registry: Registry, trainer: Trainer, artifacts: Artifacts, clock: Clock, limits: ImportLimits
    ) -> None:
        self._registry = registry
        self._trainer = trainer
        self._artifacts = artifacts
        self._clock = clock
        self._limits = limits
        self._process = asyncio.Lock()  # there is room for one process beside the trainings
        self._active: dict[asyncio.Task[object], asyncio.Event] = {}
        self._draining = False
        self._cut_off = False

    @asynccontextmanager
    async def upload(self, order: ImportOrder) -> AsyncIterator[Upload]:
        """Yields a file to write; when the block ends, nothing of the import is left but what was published.

        Raises:
            ServiceError: UNIMPLEMENTED, DRAINING, TOO_MANY_CALLS, MODEL_EXISTS, OPERATION_IN_PROGRESS, DISK_FULL.
        """
        job = new_import_id(self._clock.now())
        self._check(order)
        task = asyncio.current_task()
        assert task is not None
        ended = self._active[task] = asyncio.Event()
        upload: Upload | None = None
        try:
            await self._check_name(order, job)
            writer = await asyncio.to_thread(self._artifacts.file_writer, job)
            upload = Upload(job, order, writer, self._limits.file_bytes)
            yield upload
        except asyncio.CancelledError:
            if not self._cut_off:
                raise
            task.uncancel()
            raise _draining() from None
        finally:
            try:
                await asyncio.shield(asyncio.to_thread(self._clear, job, upload))
            finally:
                del self._active[task]
                ended.set()

    async def make(self, upload: Upload) -> Imported:
        """Makes and publishes a version of a file that has come as a whole, and loads it if that is wanted.

        Raises:
            ServiceError: INVALID_FIELD, MODEL_EXISTS, OPERATION_IN_PROGRESS, TRAINER_OOM, TIME_LIMIT_EXCEEDED, TRAINER_DIED,
                TRAINING_FAILED, EXPORT_NOT_EQUAL, DISK_FULL.
        """
        order = upload.order
        async with self._process:
            manifest = await self._make(upload)
        if not order.load:
            return Imported(manifest.version, None)
        try:
            # Half way it cannot be taken back, so it goes on if the caller goes away.
            load = self._registry.load_when_free(order.model, manifest.version, order.loaded_by)
            await asyncio.shield(self._registry.to_its_end(load))
        except ServiceError as error:
            return Imported(manifest.version, error)
        return Imported(manifest.version, None)

    async def drain(self, grace: float) -> None:
        """Accepts no more imports, gives those under way `grace` seconds, and ends the rest."""
        self._draining = True
        if not await self._all_end(grace):
            self._cut_off = True
            for task in self._active:
                task.cancel()
            if not await self._all_end(STOP_SECONDS):
                log.error("an import does not end; the next start of the service clears what is left of it")

    async def _all_end(self, seconds: float) -> bool:
        """Waits until there are no imports; returns whether that was in time."""
        waiting = [asyncio.ensure_future(ended.wait()) for ended in self._active.values()]
        if not waiting:
            return True
        _, late = await asyncio.wait(waiting, timeout=seconds)
        for one in late:
            one.cancel()
        return not late

    def _check(self, order: ImportOrder) -> None:
        if not self._limits.enabled:
            raise ServiceError(
                Reason.UNIMPLEMENTED,
                "this service imports nothing (TRAINING_CORES is 0); send the file to one that trains",
                {"setting": "TRAINING_CORES"},
            )
        if order.torchscript and not self._limits.torchscript:
            raise ServiceError(
                Reason.UNIMPLEMENTED,
                "this service takes no TorchScript, which is a program that would run on it (IMPORT_TORCHSCRIPT is off); "
                "import the model as ONNX, or ask the operator, who may allow it to callers that are trusted with that",
                {"setting": "IMPORT_TORCHSCRIPT"},
            )
        if self._draining:
            raise _draining()
        if len(self._active) >= MAX_UPLOADS:
            raise ServiceError(
                Reason.TOO_MANY_CALLS,
                f"{len(self._active)} imports are under way and no more may be; try again later",
                {"limit": str(MAX_UPLOADS), "quota": "imports"},
                RETRY_SECONDS,
            )

    async def _check_name(self, order: ImportOrder, job: str) -> None:
        """Refuses a name that is taken. It is free while the file comes, so that a slow caller is in nobody's way."""
        await self._registry.begin_fit(order.model, job, order.new_version, _WISH)
        self._registry.end_fit(order.model, job)

    async def _make(self, upload: Upload) -> Manifest:
        order = upload.order
        latest = await self._registry.begin_fit(order.model, upload.job, order.new_version, _WISH)
        try:
            conversion = await asyncio.to_thread(self._conversion, upload, latest)
            await self._convert(conversion)
            publishing = self._registry.to_its_end(self._publish(conversion))
            try:
                return await asyncio.shield(publishing)
            except asyncio.CancelledError:
                await asyncio.wait([publishing])  # what is half published must not be cleared
                raise
        finally:
            self._registry.end_fit(order.model, upload.job)

    def _conversion(self, upload: Upload, latest: Manifest | None) -> ConversionOrder:
        return ConversionOrder(
            job=upload.job,
            model=upload.order.model,
            version=self._registry.next_version(upload.order.model),
            description=upload.order.description,
            file=self._artifacts.imported_file(upload.job),
            file_digest=upload.digest,
            memory_limit_bytes=self._limits.memory_bytes,
            spec=self._artifacts.job_directory(upload.job) / "spec.pb",
            output=self._artifacts.staging_directory(upload.job),
            signature=latest.signature if latest else None,
        )

    async def _convert(self, conversion: ConversionOrder) -> None:
        """Runs the process. Raises ServiceError if it does not end well."""
        run = await self._trainer.run(conversion)
        try:
            async with asyncio.timeout(None) as timer:
                async for event in run.events():
                    if isinstance(event, TrainingStarted):  # it may have waited for its interpreter
                        timer.reschedule(asyncio.get_running_loop().time() + self._limits.seconds)
                    if isinstance(event, TrainingLog):
                        log.info("%s: %s", conversion.job, event.line)
                    if isinstance(event, TrainingEnded) and (event.exit_code != 0 or event.reason):
                        raise failure_of(conversion.job, event, self._limits.memory_bytes)
        except TimeoutError:
            raise ServiceError(
                Reason.TIME_LIMIT_EXCEEDED,
                f"the import took longer than {self._limits.seconds:g} s (IMPORT_SECONDS), so the file is damaged or very "
                "large; import a smaller model, or ask the operator for a larger limit",
                {"job": conversion.job},
            ) from None
        finally:
            await run.kill()

    async def _publish(self, conversion: ConversionOrder) -> Manifest:
        job, model, version = conversion.job, conversion.model, conversion.version
        manifest = await asyncio.to_thread(self._artifacts.publish, job, model, version)
        self._registry.add(StoredVersion(model, version, manifest))
        return manifest

    def _clear(self, job: str, upload: Upload | None) -> None:
        try:
            if upload is not None:
                upload.close()
        finally:
            self._artifacts.discard(job)


def _draining() -> ServiceError:
    return ServiceError(Reason.DRAINING, "the service is stopping; import again when it is back")
