"""The models: which versions exist, which are loaded, and the operations that change it, one at a time for a name."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar

from service.domain.entities import Manifest, StoredVersion, VersionState, WantedLoad
from service.domain.errors import Reason, ServiceError
from service.domain.loaded import LoadedVersion
from service.domain.nearest import hint, nearest
from service.domain.ports import Artifacts, Clock, Inference, Journal, LoadHung
from service.domain.turns import Turn

log = logging.getLogger("fitserve.registry")

T = TypeVar("T")

CLOSE_SECONDS = 5.0
"""How long a stop waits for operations under way. A load that Triton does not answer ends with Triton."""

FIRST_RELOAD_DELAY = 1.0
"""Seconds before the second reload of a model that crashes again and again; each further delay is twice the one before.
The first reload is done at once."""

LONGEST_RELOAD_DELAY = 60.0
"""The longest delay between two reloads, in seconds."""

STABLE = timedelta(seconds=60)
"""A model that crashes after so long counts as one that crashes for the first time."""

MAX_HANGS = 2
"""A model whose load has hung so often in a row is not loaded by itself: each time costs a start of Triton."""

_FINAL = (Reason.ARTIFACT_DAMAGED, Reason.MODEL_NOT_FOUND, Reason.VERSION_NOT_FOUND, Reason.TOO_MANY_LOADED_MODELS)
"""Why a version is not loaded again, however often it is tried."""


@dataclass(slots=True)
class ModelEntry:
    """A model as the registry knows it.

    Attributes:
        versions: Every version on disk.
        loaded: The version that answers, or None.
        moving: The version that is being loaded or unloaded, with its state; FAILED: Triton refused it, and is asked again.
        leaving: The version whose last calls are being answered.
        turn: Which operation is under way.
        fitting: The job that trains a version of the model, or "".
        stale: Whether Triton may hold something of the model although nothing is loaded, and must unload it before it can
            load it: after a crash, and after a load that failed half way.
        crashes: How often in a row the model crashed soon after its load, or was refused when it was loaded again.
        hangs: How often in a row Triton never answered to its load.
    """

    name: str
    versions: dict[int, StoredVersion] = field(default_factory=dict)
    loaded: LoadedVersion | None = None
    moving: tuple[int, VersionState] | None = None
    leaving: LoadedVersion | None = None
    turn: Turn = field(default_factory=Turn)
    fitting: str = ""
    stale: bool = False
    crashes: int = 0
    hangs: int = 0

    def state(self, version: int) -> VersionState:
        """Returns the state of a version."""
        if self.moving is not None and self.moving[0] == version:
            return self.moving[1]
        if self.loaded is not None and self.loaded.manifest.version == version:
            return VersionState.LOADED
        return VersionState.FAILED if self.versions[version].error else VersionState.STORED

    @property
    def occupies_slot(self) -> bool:
        """Whether the model counts against MAX_LOADED_MODELS."""
        return self.loaded is not None or self.moving is not None


class Registry:
    """Knows the models and moves them in and out of Triton.

    Args:
        artifacts: The versions on disk.
        journal: Where wanted loads are kept.
        inference: Triton.
        clock: The time of day.
        max_loaded: The most models that may be loaded (MAX_LOADED_MODELS).
        queue_rows: The most rows that may wait for one model.
    """

    def __init__(
        self,
        artifacts: Artifacts,
        journal: Journal,
        inference: Inference,
        clock: Clock,
        max_loaded: int,
        queue_rows: int,
    ) -> None:
        self._artifacts = artifacts
        self._journal = journal
        self._inference = inference
        self._clock = clock
        self.max_loaded = max_loaded
        self._queue_rows = queue_rows
        self._models: dict[str, ModelEntry] = {}
        self._available = False
        self._generation = 0
        self._running: set[asyncio.Task[Any]] = set()  # Any: operations return different things
        self._reloads: dict[str, asyncio.Task[None]] = {}

    # -- what is there -------------------------------------------------------------------------------------------

    def models(self) -> list[ModelEntry]:
        """Returns the models that have a version, by name."""
        return [self._models[name] for name in sorted(self._models) if self._models[name].versions]

    def model(self, name: str) -> ModelEntry:
        """Returns a model. Raises ServiceError MODEL_NOT_FOUND naming the nearest known one."""
        entry = self._models.get(name)
        if entry is None or not entry.versions:
            known = [entry.name for entry in self.models()]
            why = hint(name, known)
            if entry is not None and entry.fitting:
                why = f" yet; job {entry.fitting} is training its first version"
            raise ServiceError(
                Reason.MODEL_NOT_FOUND,
                f"there is no model {name!r}{why}",
                {"model": name, "nearest": nearest(name, known)},
            )
        return entry

    def exists(self, name: str) -> bool:
        """Whether the model has a version."""
        return name in self._models and bool(self._models[name].versions)

    def stored(self, name: str, version: int | None) -> StoredVersion:
        """Returns a version, the latest if None. Raises ServiceError MODEL_NOT_FOUND or VERSION_NOT_FOUND."""
        entry = self.model(name)
        wanted = max(entry.versions) if version is None else version
        if wanted not in entry.versions:
            have = ", ".join(map(str, sorted(entry.versions)))
            raise ServiceError(
                Reason.VERSION_NOT_FOUND,
                f"model {name!r} has no version {wanted}; it has {have}",
                {"model": name, "version": str(wanted)},
            )
        return entry.versions[wanted]

    def serving(self, name: str, version: int | None) -> LoadedVersion:
        """Returns the version that answers a prediction.

        Raises:
            ServiceError: MODEL_NOT_FOUND, VERSION_NOT_FOUND, MODEL_NOT_LOADED, MODEL_LOADING or TRITON_UNAVAILABLE.
        """
        entry = self._models.get(name)
        loaded = entry.loaded if entry is not None else None
        if loaded is not None and (version is None or version == loaded.manifest.version):
            return loaded
        raise self._why_not_serving(name, version)

    def _why_not_serving(self, name: str, version: int | None) -> ServiceError:
        entry = self.model(name)
        if version is not None:
            self.stored(name, version)
        if entry.moving is not None and version in (None, entry.moving[0]):
            if not self._available:
                return ServiceError(
                    Reason.TRITON_UNAVAILABLE,
                    f"Triton is being started again; model {name!r} will be loaded without further action, try again",
                    {"model": name},
                )
            if entry.moving[1] == VersionState.LOADING:
                return ServiceError(Reason.MODEL_LOADING, f"model {name!r} is being loaded; try again", {"model": name})
            if entry.moving[1] == VersionState.FAILED:
                why = "Triton refused it; the service's log says why, and it will be tried again"
                return ServiceError(Reason.MODEL_LOADING, f"model {name!r} could not be loaded: {why}", {"model": name})
        which = f"model {name!r}" if version is None else f"version {version} of model {name!r}"
        loaded = f"; version {entry.loaded.manifest.version} is" if entry.loaded is not None else ""
        return ServiceError(Reason.MODEL_NOT_LOADED, f"{which} is not loaded{loaded}; call Load first", {"model": name})

    # -- training makes versions ---------------------------------------------------------------------------------

    def begin_fit(self, name: str, job: str, new_version: bool) -> Manifest | None:
        """Reserves a name for a job; returns the latest version's manifest if there is one, else None.

        Raises:
            ServiceError: MODEL_EXISTS; OPERATION_IN_PROGRESS if another job or a removal has the name.
        """
        entry = self._entry(name)
        if entry.fitting:
            raise self._in_progress(name, f"fit of job {entry.fitting}")
        if entry.turn.operation == "remove":
            raise self._in_progress(name, entry.turn.operation)
        if entry.versions and not new_version:
            raise ServiceError(
                Reason.MODEL_EXISTS,
                f"model {name!r} exists; set existing to EXISTING_MODEL_NEW_VERSION, remove it first, or take another name",
                {"model": name},
            )
        entry.fitting = job
        whole = [stored.manifest for _, stored in sorted(entry.versions.items()) if stored.manifest]
        return whole[-1] if whole else None

    def next_version(self, name: str) -> int:
        """Returns the number of the model's next version."""
        return max(self._entry(name).versions, default=0) + 1

    def end_fit(self, name: str, job: str) -> None:
        """Gives the name back."""
        entry = self._models.get(name)
        if entry is not None and entry.fitting == job:
            entry.fitting = ""
            self._forget_empty(entry)

    def add(self, stored: StoredVersion) -> None:
        """Notes a version that is on disk."""
        self._entry(stored.model).versions[stored.version] = stored

    # -- load, unload, remove ------------------------------------------------------------------------------------

    async def load(self, name: str, version: int | None, evict: bool, loaded_by: str) -> list[str]:
        """Loads a version and returns the names of the models evicted for it. A loaded one stays as it is.

        Raises:
            ServiceError: MODEL_NOT_FOUND, VERSION_NOT_FOUND, TOO_MANY_LOADED_MODELS, OPERATION_IN_PROGRESS, LOAD_FAILED,
                ARTIFACT_DAMAGED, TRITON_UNAVAILABLE.
        """
        entry = self.model(name)
        wanted = self.stored(name, version).version
        if entry.loaded is not None and entry.loaded.manifest.version == wanted and not entry.turn.taken:
            return []
        return await self._operate(
            entry, "load", partial(self._load, entry, WantedLoad(name, wanted, loaded_by), evict)
        )

    async def load_when_free(self, name: str, version: int, loaded_by: str) -> None:
        """Loads a version when other operations on the model are done. Raises like `load`, but not OPERATION_IN_PROGRESS."""
        entry = self.model(name)
        async with self._holding(entry, "load"):
            await self._load(entry, WantedLoad(name, version, loaded_by))

    async def unload(self, name: str) -> None:
        """Unloads a model when its calls in flight are answered. An unloaded one stays as it is.

        Raises:
            ServiceError: MODEL_NOT_FOUND, OPERATION_IN_PROGRESS.
        """
        entry = self.model(name)
        await self._operate(entry, "unload", partial(self._unload, entry))

    async def remove(self, name: str, version: int | None, force: bool) -> list[int]:
        """Deletes a version, or the model, and returns the versions deleted.

        Raises:
            ServiceError: MODEL_NOT_FOUND, VERSION_NOT_FOUND, MODEL_LOADED, OPERATION_IN_PROGRESS.
        """
        entry = self.model(name)
        if version is not None:
            self.stored(name, version)
        self._check_removable(entry, version, force)
        return await self._operate(entry, "remove", partial(self._remove, entry, version))

    async def remove_all(self, force: bool) -> list[str]:
        """Deletes all models and returns their names; nothing is deleted if one cannot be.

        Raises:
            ServiceError: MODEL_LOADED naming the loaded ones, OPERATION_IN_PROGRESS.
        """
        entries = self.models()
        loaded = [entry.name for entry in entries if entry.occupies_slot]
        if loaded and not force:
            raise ServiceError(
                Reason.MODEL_LOADED,
                f"these models are loaded: {', '.join(loaded)}; unload them first, or set force",
                {"models": ",".join(loaded)},
            )
        for entry in entries:
            self._check_removable(entry, None, force)
            self._check_free(entry)
        # Nothing has waited since the checks, so all turns are taken before anything else happens.
        removals = [self._begin(entry, "remove", partial(self._remove, entry, None)) for entry in entries]
        results = await asyncio.shield(asyncio.gather(*removals, return_exceptions=True))
        for failed in (result for result in results if isinstance(result, BaseException)):
            raise failed
        return [entry.name for entry in entries]

    def _check_removable(self, entry: ModelEntry, version: int | None, force: bool) -> None:
        # Without its last version the model's directory goes, in which the job may be publishing right now.
        if entry.fitting and (version is None or entry.versions.keys() == {version}):
            raise self._in_progress(entry.name, f"fit of job {entry.fitting}")
        if self._is_up(entry, version) and not force:
            raise ServiceError(
                Reason.MODEL_LOADED,
                f"model {entry.name!r} is loaded; unload it first, or set force",
                {"model": entry.name},
            )

    @staticmethod
    def _is_up(entry: ModelEntry, version: int | None) -> bool:
        up = {entry.moving[0]} if entry.moving else set()
        if entry.loaded is not None:
            up.add(entry.loaded.manifest.version)
        return bool(up) if version is None else version in up

    async def _load(self, entry: ModelEntry, wanted: WantedLoad, evict: bool = False, again: bool = False) -> list[str]:
        """Loads a version in place of the one that is loaded; returns the models evicted for it.

        Args:
            entry: The model, whose turn is ours.
            wanted: The version.
            evict: Whether another model may be unloaded for it.
            again: Whether the journal has it noted already.
        """
        self.stored(entry.name, wanted.version)  # whoever waited for the turn may come after a removal
        if entry.loaded is not None and entry.loaded.manifest.version == wanted.version:
            return []
        if not self._available:
            raise ServiceError(Reason.TRITON_UNAVAILABLE, "Triton is being started again; try again")
        evicted = [] if entry.occupies_slot else await self._make_room(entry, evict)
        old, before, generation = entry.loaded, entry.moving, self._generation
        entry.moving = (wanted.version, VersionState.LOADING)
        try:
            manifest = await asyncio.to_thread(self._artifacts.verify, entry.name, wanted.version)
            await self._bring_up(entry, manifest, None if again else wanted)
        except BaseException as error:
            self._note_failed_load(entry, wanted.version, old, before, error)
            raise
        entry.versions[wanted.version] = StoredVersion(entry.name, wanted.version, manifest)
        if generation != self._generation:  # it has just died with Triton
            self._lost_at_once(entry, wanted)
            return evicted
        entry.moving = None
        entry.loaded = self._serving_version(manifest, wanted.loaded_by)
        if old is not None:
            await self._retire(entry, old, manifest)
        return evicted

    def _serving_version(self, manifest: Manifest, loaded_by: str) -> LoadedVersion:
        now = self._clock.now()
        return LoadedVersion(manifest, self._inference, self._queue_rows, loaded_by, now, self._has_crashed)

    async def _bring_up(self, entry: ModelEntry, manifest: Manifest, wanted: WantedLoad | None) -> None:
        """Has Triton hold a version, beside the loaded one, and notes that it is wanted; does neither if one fails."""
        old, generation = entry.loaded, self._generation
        if entry.stale:
            await self._unload_from_triton(entry.name)
        entry.stale = True
        served = False
        try:
            versions = [manifest.version] if old is None else [old.manifest.version, manifest.version]
            await self._inference.serve(manifest, versions)
            served = True
            if generation != self._generation:
                raise ServiceError(Reason.TRITON_UNAVAILABLE, "Triton died during the load; try again")
            if wanted is not None:
                await self._journal.want_loaded(wanted)
        except Exception as error:
            await self._take_back(entry, old, served, error)
            raise
        entry.stale = False
        entry.hangs = 0

    async def _take_back(self, entry: ModelEntry, old: LoadedVersion | None, served: bool, error: Exception) -> None:
        """Has Triton hold what it held before a load that failed. What cannot be done now is left to the next operation."""
        try:
            if old is not None:
                entry.stale = entry.loaded is not old  # it crashed meanwhile
                if served and not entry.stale:
                    await self._inference.serve(old.manifest, [old.manifest.version])
            elif not _is_away(error):
                await self._unload_from_triton(entry.name)
                entry.stale = False
        except ServiceError as again:
            log.error("Triton may hold more of model %s than is loaded: %s", entry.name, again)

    def _lost_at_once(self, entry: ModelEntry, wanted: WantedLoad) -> None:
        """Notes that Triton died just after a load, which the journal has: the version comes back with Triton."""
        entry.moving = (wanted.version, VersionState.LOADING)
        if self._available:  # it is back already, and did not see the journal's note
            self._reload_later(entry, wanted, 0.0)

    async def _retire(self, entry: ModelEntry, old: LoadedVersion, new: Manifest) -> None:
        """Lets the calls on the old version finish, then takes it out of Triton."""
        await self._let_go(entry, old)
        try:
            await self._inference.serve(new, [new.version])
        except ServiceError as error:  # it only costs memory
            log.warning("version %s of model %s stays in Triton: %s", old.manifest.version, new.model, error)

    @staticmethod
    async def _let_go(entry: ModelEntry, version: LoadedVersion) -> None:
        """Lets the calls in flight on a version finish, and closes it."""
        entry.leaving = version
        try:
            await version.drain()
        finally:
            entry.leaving = None

    @staticmethod
    def _note_failed_load(
        entry: ModelEntry,
        version: int,
        old: LoadedVersion | None,
        before: tuple[int, VersionState] | None,
        error: BaseException,
    ) -> None:
        if isinstance(error, ServiceError) and error.reason in (Reason.LOAD_FAILED, Reason.ARTIFACT_DAMAGED):
            entry.versions[version] = replace(entry.versions[version], error=error)
        if isinstance(error, LoadHung):
            entry.hangs += 1
        # The old version may have gone down meanwhile, with Triton or by itself; it comes back.
        died = old is not None and entry.loaded is None
        entry.moving = (old.manifest.version, VersionState.LOADING) if old is not None and died else before

    async def _make_room(self, entry: ModelEntry, evict: bool) -> list[str]:
        """Returns the names of the models unloaded so that one more may be loaded."""
        evicted: list[str] = []
        while len(loaded := [other for other in self.models() if other.occupies_slot]) >= self.max_loaded:
            idle = [o for o in loaded if o.loaded and not o.turn.taken and not o.loaded.batcher.pending_requests]
            if not evict or not idle:
                raise self._too_many_loaded(entry.name, [other.name for other in loaded], evict)
            victim = min(idle, key=lambda other: other.loaded.last_used if other.loaded else 0.0)
            await self._operate(victim, "unload", partial(self._unload, victim))
            evicted.append(victim.name)
        return evicted

    def _too_many_loaded(self, name: str, loaded: list[str], evict: bool) -> ServiceError:
        mend = "none of them is idle" if evict else "unload one, or set evict"
        return ServiceError(
            Reason.TOO_MANY_LOADED_MODELS,
            f"model {name!r} cannot be loaded: {len(loaded)} of {self.max_loaded} models (MAX_LOADED_MODELS) are loaded, "
            f"{', '.join(loaded)}; {mend}",
            {"limit": str(self.max_loaded), "loaded": ",".join(loaded)},
        )

    async def _unload(self, entry: ModelEntry) -> None:
        # Noted first: if the service dies half way, the model is not loaded again.
        await self._journal.want_unloaded(entry.name)
        if (loaded := entry.loaded) is not None:
            entry.moving = (loaded.manifest.version, VersionState.UNLOADING)
            entry.loaded = None
            await self._let_go(entry, loaded)
        if entry.moving is not None or entry.stale:
            await self._unload_from_triton(entry.name)
        entry.moving = None
        entry.stale = False

    async def _unload_from_triton(self, name: str) -> None:
        try:
            await self._inference.unload(name)
        except ServiceError as error:
            if error.reason != Reason.TRITON_UNAVAILABLE:
                raise
            log.info("model %s needs no unloading: Triton is away", name)  # what starts next has nothing loaded

    async def _remove(self, entry: ModelEntry, version: int | None) -> list[int]:
        removed = sorted(entry.versions) if version is None else [version]
        if self._is_up(entry, version) or (entry.stale and not entry.occupies_slot):
            await self._unload(entry)
        await asyncio.to_thread(self._artifacts.remove, entry.name, version)
        for number in removed:
            entry.versions.pop(number, None)
        return removed

    # -- Triton goes and comes -----------------------------------------------------------------------------------

    async def triton_is_down(self) -> None:
        """Notes that Triton has died: loaded versions will be loaded again, until then calls get UNAVAILABLE."""
        self._available = False
        self._generation += 1
        ended = [entry.leaving for entry in self.models() if entry.leaving is not None]
        for entry in self.models():
            if (loaded := entry.loaded) is not None:
                entry.moving = (loaded.manifest.version, VersionState.LOADING)
                entry.loaded = None
                ended.append(loaded)
        await asyncio.gather(*(version.close() for version in ended))

    async def triton_is_up(self) -> None:
        """Makes Triton hold what should be loaded, and nothing else of ours. Failures are noted at the version."""
        wanted = {load.model for load in await self._journal.wanted_loads()}
        for name in await self._inference.loaded_models():
            if name not in wanted and name in self._models:
                await self._unload_stray(name)
        self._available = True
        # Asked again: from here on, and not before, a load that ends sees for itself that Triton is up.
        models = [load.model for load in await self._journal.wanted_loads()]
        await asyncio.gather(*(self._restore(model) for model in models))

    async def _unload_stray(self, name: str) -> None:
        try:
            await self._unload_from_triton(name)
        except ServiceError as error:  # it only costs memory
            log.error("model %s stays in Triton: %s", name, error)
            self._models[name].stale = True

    async def _restore(self, model: str) -> None:
        """Loads the version of a model that should be loaded. One model's failure must not keep the others away."""
        try:
            entry = self._entry(model)
            async with self._holding(entry, "load"):
                wanted = await self._wanted(model)  # an operation before this one may have changed it
                through = wanted is None or await self._load_again(entry, wanted)
            if wanted is not None and not through:
                self._reload_later(entry, wanted, max(FIRST_RELOAD_DELAY, _next_delay(entry)))
        except Exception:
            log.exception("model %s is not loaded again", model)

    async def _wanted(self, model: str) -> WantedLoad | None:
        """Returns the version of a model that should be loaded and is on disk."""
        wanted = next((load for load in await self._journal.wanted_loads() if load.model == model), None)
        if wanted is not None and wanted.version not in self._entry(model).versions:
            log.error("version %s of model %s should be loaded but is not on disk", wanted.version, model)
            await self._journal.want_unloaded(model)
            return None
        return wanted

    async def _load_again(self, entry: ModelEntry, wanted: WantedLoad) -> bool:
        """Loads a version without anyone asking. Returns False if that failed and is to be tried again."""
        if entry.hangs >= MAX_HANGS:
            log.error(
                "model %s is not loaded again by itself: its load hung %d times; call Load", entry.name, entry.hangs
            )
            entry.moving = None
            return True
        try:
            await self._load(entry, wanted, again=True)
        except Exception as error:  # a bug, too, must not keep other models, or Triton, from coming back
            bug = not isinstance(error, ServiceError)
            log.error("version %s of model %s is not loaded: %s", wanted.version, entry.name, error, exc_info=bug)
            if isinstance(error, ServiceError) and error.reason in _FINAL:
                entry.moving = None
                return True
            # It keeps its place, for the next try or for Triton's return.
            refused = isinstance(error, ServiceError) and error.reason == Reason.LOAD_FAILED
            entry.moving = (wanted.version, VersionState.FAILED if refused else VersionState.LOADING)
            return False
        return True

    # -- a model crashes in Triton -------------------------------------------------------------------------------

    def _has_crashed(self, loaded: LoadedVersion) -> None:
        """Takes a lost version out of service, and has it loaded again; until then calls get MODEL_LOADING."""
        manifest = loaded.manifest
        entry = self._models.get(manifest.model)
        if entry is None or entry.loaded is not loaded:
            return  # it is on its way out anyway
        entry.loaded = None
        entry.stale = True
        if entry.moving is None:  # else another version is just taking its place
            entry.moving = (manifest.version, VersionState.LOADING)
        if self._clock.now() - loaded.load_time > STABLE:
            entry.crashes = 0
        delay = _next_delay(entry)
        log.error("version %s of model %s crashed in Triton; reload in %.0f s", manifest.version, entry.name, delay)
        self._reload_later(entry, WantedLoad(entry.name, manifest.version, loaded.loaded_by), delay, loaded)

    def _reload_later(
        self, entry: ModelEntry, wanted: WantedLoad, delay: float, lost: LoadedVersion | None = None
    ) -> None:
        """Has a lost version loaded again after a delay, in place of what was planned for its model before."""
        if (planned := self._reloads.get(entry.name)) is not None:
            planned.cancel()
        task = asyncio.get_running_loop().create_task(self._reload(entry, wanted, delay, lost))
        self._reloads[entry.name] = task
        task.add_done_callback(partial(self._reload_has_ended, entry.name))

    def _reload_has_ended(self, name: str, task: asyncio.Task[None]) -> None:
        if self._reloads.get(name) is task:
            del self._reloads[name]

    async def _reload(self, entry: ModelEntry, wanted: WantedLoad, delay: float, lost: LoadedVersion | None) -> None:
        """Loads a lost version again, ever more rarely if that fails, unless its model fares otherwise meanwhile."""
        if lost is not None:
            await lost.close()
        waits = [(wanted.version, state) for state in (VersionState.LOADING, VersionState.FAILED)]
        while True:
            await asyncio.sleep(delay)
            async with self._holding(entry, "load"):
                still_lost = entry.loaded is None and entry.moving in waits
                # Without Triton it is loaded when that is back.
                if not still_lost or not self._available or await self._load_again(entry, wanted):
                    return
            delay = _next_delay(entry)
            log.info("version %s of model %s is loaded again in %.0f s", wanted.version, entry.name, delay)

    async def close(self) -> None:
        """Lets operations under way finish, then closes all streams. What is loaded stays wanted."""
        reloads = [*self._reloads.values()]
        for reload in reloads:
            reload.cancel()
        if reloads:
            await asyncio.wait(reloads)
        if self._running:
            await asyncio.wait(self._running, timeout=CLOSE_SECONDS)
        await asyncio.gather(*(entry.loaded.drain() for entry in self.models() if entry.loaded is not None))

    # -- one operation a name ------------------------------------------------------------------------------------

    def _entry(self, name: str) -> ModelEntry:
        return self._models.setdefault(name, ModelEntry(name))

    def _forget_empty(self, entry: ModelEntry) -> None:
        if not entry.versions and not entry.fitting and not entry.occupies_slot and not entry.turn.taken:
            self._models.pop(entry.name, None)

    async def _operate(self, entry: ModelEntry, operation: str, work: Callable[[], Awaitable[T]]) -> T:
        """Runs an operation to its end, even if the caller goes away half way. Raises OPERATION_IN_PROGRESS."""
        return await asyncio.shield(self._begin(entry, operation, work))

    def _check_free(self, entry: ModelEntry) -> None:
        if entry.turn.taken:
            raise self._in_progress(entry.name, entry.turn.operation)

    def _begin(self, entry: ModelEntry, operation: str, work: Callable[[], Awaitable[T]]) -> asyncio.Task[T]:
        """Takes the model's turn at once, and starts the work. Raises ServiceError OPERATION_IN_PROGRESS."""
        self._check_free(entry)
        entry.turn.take(operation)

        async def run() -> T:
            try:
                return await work()
            finally:
                self._end(entry)

        task = asyncio.get_running_loop().create_task(run())
        self._running.add(task)
        task.add_done_callback(self._has_ended)
        return task

    def _end(self, entry: ModelEntry) -> None:
        entry.turn.give_back()
        self._forget_empty(entry)

    def _has_ended(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, ServiceError):  # the caller may have gone
            log.error("an operation failed inside the service", exc_info=error)

    @asynccontextmanager
    async def _holding(self, entry: ModelEntry, operation: str) -> AsyncIterator[None]:
        """Waits for the model's turn, and keeps it for a block."""
        await entry.turn.wait(operation)
        try:
            yield
        finally:
            self._end(entry)

    @staticmethod
    def _in_progress(name: str, operation: str) -> ServiceError:
        return ServiceError(
            Reason.OPERATION_IN_PROGRESS,
            f"another operation on model {name!r} is under way ({operation}); try again when it is done",
            {"model": name, "operation": operation},
        )


def _reload_delay(crashes: int) -> float:
    """Returns how many seconds to wait before the reload after so many crashes in a row."""
    return 0.0 if crashes <= 1 else min(FIRST_RELOAD_DELAY * 2.0 ** (crashes - 2), LONGEST_RELOAD_DELAY)


def _next_delay(entry: ModelEntry) -> float:
    """Counts one more failure of a model; returns how many seconds to wait before it is loaded again."""
    entry.crashes += 1
    return _reload_delay(entry.crashes)


def _is_away(error: Exception) -> bool:
    return isinstance(error, ServiceError) and error.reason == Reason.TRITON_UNAVAILABLE
