"""What a further process knows of the models: the versions that it was told of, and nothing else."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial

from service.domain.entities import Alias, Choice, Manifest, WantedModel
from service.domain.errors import Reason, ServiceError
from service.domain.loaded import LoadedVersion
from service.domain.model_entry import ModelEntry
from service.domain.ports import Inference
from service.domain.shared_state import SharedModel, SharedState, Work

log = logging.getLogger("fitserve.follower")

_NO_TIME = datetime.fromtimestamp(0, UTC)


class NotHere(Exception):
    """This process does not know that the version is loaded; the primary one knows what is."""


class Follower:
    """Keeps to what the primary process says is loaded.

    Args:
        read_manifest: Reads the manifest of a version; blocks. Raises ServiceError.
        connect: Returns the Triton at an address.
        queue_rows: The most rows that may wait for one version, unless its model's capacity says otherwise.
        on_crash: Is told the serial number of a version that Triton has lost.
    """

    def __init__(
        self,
        read_manifest: Callable[[str, int], Manifest],
        connect: Callable[[str], Inference],
        queue_rows: int,
        on_crash: Callable[[int], None],
    ) -> None:
        self._read_manifest = read_manifest
        self._connect = connect
        self._queue_rows = queue_rows
        self._on_crash = on_crash
        # A thread of its own: those of asyncio may all be busy with callers' messages, and the primary waits for an answer.
        self._thread = ThreadPoolExecutor(1, "manifests")
        self._address = ""
        self._inference: Inference | None = None
        self._models: dict[str, ModelEntry] = {}
        self._loaded: dict[int, LoadedVersion] = {}
        self._leaving: dict[int, LoadedVersion] = {}

    def serving(self, name: str, choice: Choice) -> LoadedVersion:
        """Returns the version that answers a prediction. Raises NotHere if none is known that does."""
        entry = self._models.get(name)
        loaded = entry.answering(choice) if entry is not None else None
        if loaded is None:
            raise NotHere
        return loaded

    async def follow(self, state: SharedState) -> None:
        """Goes by a new state: when this returns, no new call is answered by what it does not have."""
        ended = await self._meet(state.triton)
        known = {serial for model in state.models for serial in model.versions.values()}
        for model in state.models:
            await self._open_new(model)
        # Nothing waits from here on, so that a call sees all of the new state or nothing of it.
        self._models = {model.name: self._entry(model) for model in state.models}
        for serial in self._loaded.keys() - known:
            loaded = self._loaded.pop(serial)
            if serial in state.leaving:
                self._leaving[serial] = loaded
            else:
                ended.append(loaded)
        await asyncio.gather(*(loaded.close() for loaded in ended))

    async def _meet(self, address: str) -> list[LoadedVersion]:
        """Connects to another Triton if it is another one; returns the versions that the one before had."""
        if address == self._address:
            return []
        ended = [*self._loaded.values(), *self._leaving.values()]
        before, self._inference = self._inference, self._connect(address) if address else None
        self._address = address
        self._models, self._loaded = {}, {}
        if before is not None:
            await before.stop()
        return ended

    async def _open_new(self, model: SharedModel) -> None:
        """Opens the versions of a model that were loaded since the state before, and resizes the others."""
        for version, serial in model.versions.items():
            if (known := self._loaded.get(serial)) is not None:
                known.resize(model.capacity)
            elif self._inference is not None:
                try:
                    manifest = await self._manifest(model, version)
                except ServiceError as error:  # its calls go to the primary
                    log.error("%s", error)
                    continue
                self._loaded[serial] = LoadedVersion(
                    manifest,
                    self._inference,
                    self._queue_rows,
                    model.capacity,
                    "",
                    _NO_TIME,
                    partial(self._has_crashed, serial),
                )

    async def _manifest(self, model: SharedModel, version: int) -> Manifest:
        """Returns the manifest of a version. Raises ServiceError if it cannot be read, or is not what Triton has loaded."""
        loop = asyncio.get_running_loop()
        manifest = await loop.run_in_executor(self._thread, self._read_manifest, model.name, version)
        if manifest.own_config_digest != model.own_configs.get(version, ""):
            raise ServiceError(
                Reason.ARTIFACT_DAMAGED,
                f"the configuration of model {model.name!r}, which an operator has placed, is another one than version "
                f"{version} was loaded with; the primary process answers for it until it is unloaded and loaded again",
                {"model": model.name, "version": str(version)},
            )
        return manifest

    def _entry(self, model: SharedModel) -> ModelEntry:
        """Returns a model of which nothing is known but what answers."""
        entry = ModelEntry(model.name)
        entry.loaded = {
            number: self._loaded[serial] for number, serial in model.versions.items() if serial in self._loaded
        }
        entry.aliases = {
            name: Alias(model.name, name, number, None, _NO_TIME) for name, number in model.aliases.items()
        }
        entry.wanted = WantedModel(model.name, model.serving, dict.fromkeys(model.versions, ""), model.capacity)
        return entry

    def _has_crashed(self, serial: int, lost: LoadedVersion) -> None:
        """Takes a lost version out of service, and tells of it; the next state does not have it."""
        entry = self._models.get(lost.manifest.model)
        if entry is not None and entry.loaded.get(lost.manifest.version) is lost:
            del entry.loaded[lost.manifest.version]
        self._on_crash(serial)

    async def drain(self, serials: Sequence[int]) -> None:
        """Lets the calls on versions that are leaving finish, and closes them."""
        leaving = [self._leaving[serial] for serial in serials if serial in self._leaving]
        try:
            await asyncio.gather(*(loaded.drain() for loaded in leaving))
        finally:
            for serial in serials:
                self._leaving.pop(serial, None)

    def work(self) -> dict[int, Work]:
        """Returns what this process does, and has done, with each loaded version, by its serial number."""
        return {serial: loaded.work for serial, loaded in self._loaded.items()}

    async def close(self) -> None:
        """Lets calls finish, and closes everything."""
        everything = [*self._loaded.values(), *self._leaving.values()]
        await asyncio.gather(*(loaded.drain() for loaded in everything))
        self._thread.shutdown(wait=False)
        if self._inference is not None:
            await self._inference.stop()
