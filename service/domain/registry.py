"""The models: which versions exist, which are loaded, and the operations that change it, one at a time for a name."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar

from service.domain.entities import Alias, Choice, LoadOrder, Manifest, StoredVersion, VersionState
from service.domain.errors import Reason, ServiceError, operators_own
from service.domain.ids import operation_of
from service.domain.loaded import LoadedVersion
from service.domain.model_entry import ModelEntry
from service.domain.nearest import hint, nearest
from service.domain.ports import Artifacts, Clock, Followers, Inference, Journal, LoadHung
from service.domain.shared_state import SharedModel, SharedState, Work

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
"""A version whose load has hung so often in a row is not loaded by itself: each time costs a start of Triton."""

WISH_OF_FIT = "existing to EXISTING_MODEL_NEW_VERSION"
"""How a Fit says that a new version is wanted."""

_FINAL = (Reason.ARTIFACT_DAMAGED, Reason.MODEL_NOT_FOUND, Reason.VERSION_NOT_FOUND, Reason.TOO_MANY_LOADED_MODELS)
"""Why a version is not loaded again, however often it is tried."""


class NoFollowers:
    """Implements the port Followers for a service of one process."""

    def tell(self) -> None:
        """Does nothing."""

    async def told(self) -> None:
        """Does nothing."""

    async def drained(self, serials: Sequence[int]) -> None:
        """Does nothing."""

    async def work(self) -> Mapping[int, Sequence[Work]]:
        """Returns nothing."""
        return {}


class Registry:
    """Knows the models and moves them in and out of Triton.

    Args:
        artifacts: The versions on disk.
        journal: Where wanted models and aliases are kept.
        inference: Triton.
        clock: The time of day.
        max_loaded: The most versions that may be loaded (MAX_LOADED_MODELS).
        queue_rows: The most rows that may wait for one version, unless its model's capacity says otherwise.
        followers: The further processes that answer predictions.
    """

    def __init__(
        self,
        artifacts: Artifacts,
        journal: Journal,
        inference: Inference,
        clock: Clock,
        max_loaded: int,
        queue_rows: int,
        followers: Followers | None = None,
    ) -> None:
        self._followers = followers or NoFollowers()
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
        self._reloads: dict[tuple[str, int], asyncio.Task[None]] = {}

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
                why = f" yet; its first version is being made ({operation_of(entry.fitting)})"
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

    def chosen(self, name: str, choice: Choice) -> StoredVersion:
        """Returns the version that is chosen by its number or an alias, the latest if by neither.

        Raises:
            ServiceError: MODEL_NOT_FOUND, VERSION_NOT_FOUND, ALIAS_NOT_FOUND.
        """
        return self.stored(name, self.model(name).alias(choice).version if isinstance(choice, str) else choice)

    def serving(self, name: str, choice: Choice) -> LoadedVersion:
        """Returns the version that answers a prediction.

        Raises:
            ServiceError: MODEL_NOT_FOUND, VERSION_NOT_FOUND, ALIAS_NOT_FOUND, MODEL_NOT_LOADED, MODEL_LOADING or
                TRITON_UNAVAILABLE.
        """
        entry = self._models.get(name)
        loaded = entry.answering(choice) if entry is not None else None
        if loaded is not None:
            return loaded
        self.chosen(name, choice)
        raise self.model(name).why_not_answering(choice, self._available)

    def answers(self, name: str, choice: Choice) -> bool:
        """Whether a prediction of this model, and version if one is chosen, would be answered now."""
        entry = self._models.get(name)
        return entry is not None and entry.answering(choice) is not None

    async def look_for_operators_models(self) -> None:
        """Finds models that operators have placed, changed or taken away since the last look."""
        found = await asyncio.to_thread(self._artifacts.operator_versions)
        there = {(stored.model, stored.version) for stored in found}
        for stored in found:
            entry = self._entry(stored.model)
            known = entry.versions.get(stored.version)
            # What Triton has refused stays so until its files are others.
            changed = known is None or known.manifest is None or known.manifest != stored.manifest
            if changed and stored.version not in entry.up and not entry.turn.taken:
                entry.versions[stored.version] = stored
        for entry in [entry for entry in self.models() if entry.of_operator and not entry.turn.taken]:
            for version in entry.versions.keys() - entry.up:
                if (entry.name, version) not in there:
                    del entry.versions[version]
            self._forget_empty(entry)

    def shared_state(self) -> SharedState:
        """Returns what the further processes need to know."""
        leaving = [loaded.serial for entry in self._models.values() for loaded in entry.leaving]
        shared = [_shared(entry) for entry in self._models.values() if entry.loaded]
        return SharedState(self._inference.address if self._available else "", shared, leaving)

    async def count_work(self) -> None:
        """Notes at each loaded version what the further processes do, and have done, with it."""
        work = await self._followers.work()
        for entry in self._models.values():
            for loaded in entry.loaded.values():
                loaded.elsewhere = work.get(loaded.serial, ())

    # -- training makes versions ---------------------------------------------------------------------------------

    async def begin_fit(self, name: str, job: str, new_version: bool, wish: str = WISH_OF_FIT) -> Manifest | None:
        """Reserves a name for a job or an import; returns the latest version's manifest if there is one, else None.

        Args:
            wish: How the caller says that a new version is wanted, for the message.

        Raises:
            ServiceError: MODEL_EXISTS; OPERATOR_MODEL; OPERATION_IN_PROGRESS if another job or a removal has the name.
        """
        if await asyncio.to_thread(self._artifacts.of_operator, name):
            raise operators_own(name)
        entry = self._entry(name)
        if entry.fitting:
            raise self.in_progress(name, operation_of(entry.fitting))
        if entry.turn.operation == "remove":
            raise self.in_progress(name, entry.turn.operation)
        if entry.versions and not new_version:
            raise ServiceError(
                Reason.MODEL_EXISTS,
                f"model {name!r} exists; set {wish}, remove it first, or take another name",
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

    async def load(self, name: str, choice: Choice, order: LoadOrder) -> list[str]:
        """Loads a version, the latest if none is chosen, and returns the names of the models evicted for it.

        Of a loaded one only what the order changes is changed.

        Raises:
            ServiceError: MODEL_NOT_FOUND, VERSION_NOT_FOUND, ALIAS_NOT_FOUND, TOO_MANY_LOADED_MODELS, OPERATION_IN_PROGRESS,
                LOAD_FAILED, ARTIFACT_DAMAGED, TRITON_UNAVAILABLE.
        """
        entry = self.model(name)
        version = self.chosen(name, choice).version
        unchanged = version in entry.loaded and entry.wanted_after(version, order) == entry.wanted
        if unchanged and not entry.turn.taken:
            return []
        return await self._operate(entry, "load", partial(self._load, entry, version, order))

    async def load_when_free(self, name: str, version: int, loaded_by: str) -> None:
        """Loads a version when other operations on the model are done. Raises like `load`, but not OPERATION_IN_PROGRESS."""
        entry = self.model(name)
        async with self._holding(entry, "load"):
            await self._load(entry, version, LoadOrder(loaded_by))

    async def unload(self, name: str, choice: Choice = None) -> None:
        """Unloads a model, or one version of it, when its calls in flight are answered. What is not loaded stays as it is.

        Raises:
            ServiceError: MODEL_NOT_FOUND, VERSION_NOT_FOUND, ALIAS_NOT_FOUND, OPERATION_IN_PROGRESS.
        """
        entry = self.model(name)
        only = None if choice is None else [self.chosen(name, choice).version]
        await self._operate(entry, "unload", partial(self._unload, entry, only))

    async def remove(self, name: str, version: int | None, force: bool) -> list[int]:
        """Deletes a version, or the model, with its aliases, and returns the versions deleted.

        Raises:
            ServiceError: MODEL_NOT_FOUND, VERSION_NOT_FOUND, MODEL_LOADED, VERSION_HAS_ALIAS, OPERATION_IN_PROGRESS,
                OPERATOR_MODEL.
        """
        entry = self.model(name)
        if version is not None:
            self.stored(name, version)
        self._check_removable(entry, version, force)
        return await self._operate(entry, "remove", partial(self._remove, entry, version))

    async def remove_all(self, force: bool) -> list[str]:
        """Deletes all models but those of operators, and returns their names; nothing is deleted if one cannot be.

        Raises:
            ServiceError: MODEL_LOADED naming the loaded ones, OPERATION_IN_PROGRESS.
        """
        entries = [entry for entry in self.models() if not entry.of_operator]
        loaded = [entry.name for entry in entries if entry.up]
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
        if entry.of_operator:
            raise operators_own(entry.name)
        # Without its last version the model's directory goes, in which the job may be publishing right now.
        if entry.fitting and (version is None or entry.versions.keys() == {version}):
            raise self.in_progress(entry.name, operation_of(entry.fitting))
        if force:
            return
        if entry.up if version is None else version in entry.up:
            which = f"model {entry.name!r}" if version is None else f"version {version} of model {entry.name!r}"
            message = f"{which} is loaded; unload it first, or set force"
            raise ServiceError(Reason.MODEL_LOADED, message, {"model": entry.name})
        if version is not None and (aliases := ",".join(entry.aliases_of(version))):
            raise ServiceError(
                Reason.VERSION_HAS_ALIAS,
                f"version {version} of model {entry.name!r} has the alias {aliases}; move or delete it first, or set force",
                {"model": entry.name, "version": str(version), "aliases": aliases},
            )

    async def _load(self, entry: ModelEntry, version: int, order: LoadOrder | None) -> list[str]:
        """Loads a version as ordered, and returns the models evicted for it.

        Args:
            entry: The model, whose turn is ours.
            version: The version.
            order: How; None for one that is wanted already and was lost.
        """
        self.stored(entry.name, version)  # whoever waited for the turn may come after a removal
        if (loaded := entry.loaded.get(version)) is not None:
            await self._change(entry, loaded, order)
            return []
        if not self._available:
            raise ServiceError(Reason.TRITON_UNAVAILABLE, "Triton is being started again; try again")
        evicted = await self._make_room(entry, version, order)
        before = entry.moving.get(version)
        entry.moving[version] = VersionState.LOADING
        try:
            manifest = await asyncio.to_thread(self._artifacts.verify, entry.name, version)
            replaced = await self._bring_up(entry, manifest, order)
        except BaseException as error:
            self._note_failed_load(entry, version, before, error)
            raise
        entry.versions[version] = replace(entry.versions[version], manifest=manifest, error=None)
        await self._retire(entry, replaced)
        return evicted

    async def _bring_up(self, entry: ModelEntry, manifest: Manifest, order: LoadOrder | None) -> list[LoadedVersion]:
        """Has Triton hold a version, beside the loaded ones, and lets it answer; does neither if one fails.

        Returns:
            The loaded versions that it has replaced.
        """
        version, generation = manifest.version, self._generation
        instances = (order.changed(entry.capacity) if order is not None else entry.capacity).instances
        if version in entry.stale:
            await self._settle(entry)
        try:
            await self._serve(entry, manifest, instances)
            if generation != self._generation:
                raise ServiceError(Reason.TRITON_UNAVAILABLE, "Triton died during the load; try again")
            replaced = await self._commit(entry, version, order) if order is not None else []
        except Exception as error:
            await self._take_back(entry, error)
            raise
        # Nothing has waited since the commit: no request finds neither the old version nor the new one.
        entry.hangs.pop(version, None)
        if generation == self._generation:
            del entry.moving[version]
            entry.loaded[version] = self._answering_version(entry, manifest)
        elif self._available:  # Triton has just died, and is back already, without having seen the journal's note
            self._reload_later(entry, version, 0.0)
        return replaced

    async def _commit(self, entry: ModelEntry, version: int, order: LoadOrder) -> list[LoadedVersion]:
        """Notes what is wanted after an order, and takes what it replaces out of service.

        Returns:
            The loaded versions that it has replaced.
        """
        async with entry.commit:
            replaced, wanted = entry.replaced_by(version, order), entry.wanted_after(version, order)
            await self._journal.want_loaded(wanted)
            entry.wanted = wanted
            for old in replaced:
                entry.moving.pop(old, None)
            gone = [entry.loaded.pop(old) for old in replaced if old in entry.loaded]
            for loaded in entry.loaded.values():
                loaded.resize(wanted.capacity)
            return gone

    def _answering_version(self, entry: ModelEntry, manifest: Manifest) -> LoadedVersion:
        loaded_by = entry.wanted.loaded_by[manifest.version] if entry.wanted is not None else ""
        now = self._clock.now()
        return LoadedVersion(
            manifest, self._inference, self._queue_rows, entry.capacity, loaded_by, now, self._has_crashed
        )

    async def _change(self, entry: ModelEntry, loaded: LoadedVersion, order: LoadOrder | None) -> None:
        """Changes what an order for a loaded version changes: its place among the others, copies, limits."""
        if order is None or entry.wanted_after(loaded.manifest.version, order) == entry.wanted:
            return
        if not self._available:
            raise ServiceError(Reason.TRITON_UNAVAILABLE, "Triton is being started again; try again")
        before, instances = entry.capacity.instances, order.changed(entry.capacity).instances
        try:
            if instances != before:
                await self._serve(entry, loaded.manifest, instances)
            replaced = await self._commit(entry, loaded.manifest.version, order)
        except Exception:
            if instances != before and entry.loaded:
                with suppress(ServiceError):  # more copies than wanted, or fewer, do no harm
                    await self._serve(entry, next(iter(entry.loaded.values())).manifest, before)
            raise
        await self._retire(entry, replaced)

    async def _serve(self, entry: ModelEntry, manifest: Manifest, instances: int) -> None:
        """Has Triton hold the loaded versions and this one, which may be one of them, and nothing else of the model."""
        versions = {*entry.loaded, manifest.version}
        beside = [entry.loaded[version].manifest for version in sorted(versions - {manifest.version})]
        entry.held |= versions
        await self._inference.serve(manifest, beside, instances)
        entry.held = versions

    async def _settle(self, entry: ModelEntry) -> None:
        """Has Triton hold what answers, and nothing else of the model."""
        if not entry.stale:
            return
        if not entry.loaded:
            await self._unload_from_triton(entry.name)
            entry.held = set()
            return
        some = next(iter(entry.loaded.values())).manifest
        try:
            await self._serve(entry, some, entry.capacity.instances)
        except ServiceError as error:
            if not _is_away(error):
                raise
            log.info("model %s needs no unloading: Triton is away", entry.name)

    async def _take_back(self, entry: ModelEntry, error: Exception) -> None:
        """Has Triton hold what it held before a load that failed. What cannot be done now is left to the next operation."""
        if _is_away(error) and not entry.loaded:
            return
        try:
            await self._settle(entry)
        except ServiceError as again:
            log.error("Triton may hold more of model %s than is loaded: %s", entry.name, again)

    async def _retire(self, entry: ModelEntry, replaced: Collection[LoadedVersion]) -> None:
        """Lets the calls on replaced versions finish, then takes them out of Triton, and whatever else does not answer."""
        await self._let_go(entry, replaced)
        try:
            await self._settle(entry)
        except ServiceError as error:  # it only costs memory
            log.warning("more of model %s than is loaded stays in Triton: %s", entry.name, error)

    async def _let_go(self, entry: ModelEntry, versions: Collection[LoadedVersion]) -> None:
        """Lets the calls in flight on some versions finish, in all processes, and closes them."""
        entry.leaving.update(versions)
        try:
            # Even if none goes: whoever asked for the change is answered when all processes have it.
            await self._followers.told()
            if versions:
                serials = [version.serial for version in versions]
                await asyncio.gather(*(version.drain() for version in versions), self._followers.drained(serials))
        finally:
            entry.leaving.difference_update(versions)

    @staticmethod
    def _note_failed_load(entry: ModelEntry, version: int, before: VersionState | None, error: BaseException) -> None:
        if isinstance(error, ServiceError) and error.reason in (Reason.LOAD_FAILED, Reason.ARTIFACT_DAMAGED):
            entry.versions[version] = replace(entry.versions[version], error=error)
        if isinstance(error, LoadHung):
            entry.hangs[version] += 1
        entry.moving.pop(version, None)
        if before is not None:
            entry.moving[version] = before

    async def _make_room(self, entry: ModelEntry, version: int, order: LoadOrder | None) -> list[str]:
        """Returns the names of the models unloaded so that a version may be loaded."""
        evicted: list[str] = []
        replaced = entry.replaced_by(version, order) if order is not None else set()
        up = len(entry.up - replaced | {version})
        while up > len(entry.up) and self._loaded_count() - len(entry.up) + up > self.max_loaded:
            evict = order is not None and order.evict
            if evict:
                await self.count_work()
            idle = [other for other in self.models() if other is not entry and _is_idle(other)]
            if not evict or not idle:
                raise self._too_many_loaded(entry.name, version, evict)
            victim = min(idle, key=lambda other: max(loaded.last_use for loaded in other.loaded.values()))
            await self._operate(victim, "unload", partial(self._unload, victim, None))
            evicted.append(victim.name)
        return evicted

    def _loaded_count(self) -> int:
        return sum(len(entry.up) for entry in self.models())

    def _too_many_loaded(self, name: str, version: int, evict: bool) -> ServiceError:
        loaded = [entry for entry in self.models() if entry.up]
        mend = "no other model is idle" if evict else "unload one, or set evict"
        what = ", ".join(entry.name if len(entry.up) == 1 else f"{entry.name} ({len(entry.up)})" for entry in loaded)
        return ServiceError(
            Reason.TOO_MANY_LOADED_MODELS,
            f"version {version} of model {name!r} cannot be loaded: {self._loaded_count()} of {self.max_loaded} versions "
            f"(MAX_LOADED_MODELS) are loaded, of {what}; {mend}",
            {"limit": str(self.max_loaded), "loaded": ",".join(entry.name for entry in loaded)},
        )

    async def _unload(self, entry: ModelEntry, only: Collection[int] | None) -> None:
        """Unloads some versions, or all."""
        async with entry.commit:
            versions = entry.up | entry.stale if only is None else set(only)
            wanted = None if only is None or entry.wanted is None else entry.wanted.without(versions)
            # Noted first: if the service dies half way, the model is not loaded again.
            if wanted is None:
                await self._journal.want_unloaded(entry.name)
            elif wanted != entry.wanted:
                await self._journal.want_loaded(wanted)
            entry.wanted = wanted
            going = [entry.loaded.pop(version) for version in versions if version in entry.loaded]
            leaving = versions & entry.moving.keys() | {loaded.manifest.version for loaded in going}
            entry.moving.update(dict.fromkeys(leaving, VersionState.UNLOADING))
        await self._let_go(entry, going)
        await self._settle(entry)
        for version in leaving:
            del entry.moving[version]

    async def _unload_from_triton(self, name: str) -> None:
        try:
            await self._inference.unload(name)
        except ServiceError as error:
            if error.reason != Reason.TRITON_UNAVAILABLE:
                raise
            log.info("model %s needs no unloading: Triton is away", name)  # what starts next has nothing loaded

    async def _remove(self, entry: ModelEntry, version: int | None) -> list[int]:
        removed = sorted(entry.versions) if version is None else [version]
        if entry.wanted is not None or entry.up or entry.stale:
            await self._unload(entry, None if version is None else removed)
        async with entry.commit:
            await self._remove_aliases(entry, removed)
        await asyncio.to_thread(self._artifacts.remove, entry.name, version)
        for number in removed:
            for known in (entry.versions, entry.crashes, entry.hangs):
                known.pop(number, None)
        return removed

    async def _remove_aliases(self, entry: ModelEntry, versions: Collection[int]) -> None:
        """Deletes the aliases of versions that go; no other alias can go back to one of them."""
        for alias in list(entry.aliases.values()):
            if alias.version in versions:
                await self.drop_alias(entry, alias.name)
            elif alias.previous in versions:
                await self.put_alias(entry, replace(alias, previous=None))

    async def put_alias(self, entry: ModelEntry, alias: Alias) -> None:
        """Makes or moves an alias in one step, which the journal has first. `entry.commit` is the caller's."""
        await self._journal.set_alias(alias)
        entry.aliases[alias.name] = alias
        await self._followers.told()

    async def drop_alias(self, entry: ModelEntry, name: str) -> None:
        """Deletes an alias. `entry.commit` is the caller's."""
        await self._journal.delete_alias(entry.name, name)
        entry.aliases.pop(name, None)
        await self._followers.told()

    # -- Triton goes and comes -----------------------------------------------------------------------------------

    async def recall(self) -> None:
        """Reads from the journal what should be loaded, and the aliases; drops what names a version that is not on disk."""
        for wanted in await self._journal.wanted_models():
            entry = self._entry(wanted.model)
            if gone := wanted.loaded_by.keys() - entry.versions.keys():
                log.error("versions %s of model %s should be loaded but are not on disk", sorted(gone), wanted.model)
            entry.wanted = wanted.without(gone)
            if entry.wanted is None:
                await self._journal.want_unloaded(wanted.model)
            elif gone:
                await self._journal.want_loaded(entry.wanted)
        for alias in await self._journal.aliases():
            entry = self._entry(alias.model)
            entry.aliases[alias.name] = alias
            if alias.version not in entry.versions:
                log.error("alias %s of model %s names a version that is not on disk", alias.name, alias.model)
                await self.drop_alias(entry, alias.name)
        for entry in list(self._models.values()):
            self._forget_empty(entry)

    async def triton_is_down(self) -> None:
        """Notes that Triton has died: loaded versions will be loaded again, until then calls get UNAVAILABLE."""
        self._available = False
        self._generation += 1
        ended: list[LoadedVersion] = []
        for entry in self.models():
            ended += [*entry.leaving, *entry.loaded.values()]
            entry.held.difference_update(entry.loaded)
            entry.moving.update((version, VersionState.LOADING) for version in entry.loaded)
            entry.loaded.clear()
        self._followers.tell()
        await asyncio.gather(*(version.close() for version in ended))

    async def triton_is_up(self) -> None:
        """Makes Triton hold what should be loaded, and nothing else of ours. Failures are noted at the version."""
        for name in await self._inference.loaded_models():
            if (entry := self._models.get(name)) is not None and entry.wanted is None:
                await self._unload_stray(name)
        self._available = True
        # Read only now: from here on, and not before, a load that ends sees for itself that Triton is up.
        wanted = [entry for entry in self._models.values() if entry.wanted is not None]
        await asyncio.gather(*(self._restore(entry) for entry in wanted))

    async def _unload_stray(self, name: str) -> None:
        try:
            await self._unload_from_triton(name)
        except ServiceError as error:  # it only costs memory
            log.error("model %s stays in Triton: %s", name, error)
            self._models[name].held.update(self._models[name].versions)

    async def _restore(self, entry: ModelEntry) -> None:
        """Loads the versions of a model that should be loaded. One's failure must not keep the others away."""
        try:
            async with self._holding(entry, "load"):
                for version in entry.wanted.in_order if entry.wanted is not None else []:
                    if not await self._load_again(entry, version):
                        delay = max(FIRST_RELOAD_DELAY, _next_delay(entry, version))
                        self._reload_later(entry, version, delay)
        except Exception:
            log.exception("model %s is not loaded again", entry.name)

    async def _load_again(self, entry: ModelEntry, version: int) -> bool:
        """Loads a version without anyone asking. Returns False if that failed and is to be tried again."""
        if entry.hangs[version] >= MAX_HANGS:
            log.error(
                "version %s of model %s is not loaded again by itself: its load hung %d times; call Load",
                version,
                entry.name,
                entry.hangs[version],
            )
            entry.moving.pop(version, None)
            return True
        try:
            await self._load(entry, version, None)
        except Exception as error:  # a bug, too, must not keep other models, or Triton, from coming back
            bug = not isinstance(error, ServiceError)
            log.error("version %s of model %s is not loaded: %s", version, entry.name, error, exc_info=bug)
            if isinstance(error, ServiceError) and error.reason in _FINAL:
                entry.moving.pop(version, None)
                return True
            # It keeps its place, for the next try or for Triton's return.
            refused = isinstance(error, ServiceError) and error.reason == Reason.LOAD_FAILED
            entry.moving[version] = VersionState.FAILED if refused else VersionState.LOADING
            return False
        return True

    # -- a model crashes in Triton -------------------------------------------------------------------------------

    def has_crashed_elsewhere(self, serial: int) -> None:
        """Takes a version out of service whose crash a further process has seen, as if this one had."""
        for entry in self._models.values():
            for loaded in [loaded for loaded in entry.loaded.values() if loaded.serial == serial]:
                self._has_crashed(loaded)

    def _has_crashed(self, loaded: LoadedVersion) -> None:
        """Takes a lost version out of service, and has it loaded again; until then calls get MODEL_LOADING."""
        manifest = loaded.manifest
        entry, version = self._models.get(manifest.model), manifest.version
        if entry is None or entry.loaded.get(version) is not loaded:
            return  # it is on its way out anyway
        del entry.loaded[version]
        entry.moving[version] = VersionState.LOADING
        self._followers.tell()
        if self._clock.now() - loaded.load_time > STABLE:
            entry.crashes.pop(version, None)
        delay = _next_delay(entry, version)
        log.error("version %s of model %s crashed in Triton; reload in %.0f s", version, entry.name, delay)
        self._reload_later(entry, version, delay, loaded)

    def _reload_later(self, entry: ModelEntry, version: int, delay: float, lost: LoadedVersion | None = None) -> None:
        """Has a lost version loaded again after a delay, in place of what was planned for it before."""
        key = (entry.name, version)
        if (planned := self._reloads.get(key)) is not None:
            planned.cancel()
        task = asyncio.get_running_loop().create_task(self._reload(entry, version, delay, lost))
        self._reloads[key] = task
        task.add_done_callback(partial(self._reload_has_ended, key))

    def _reload_has_ended(self, key: tuple[str, int], task: asyncio.Task[None]) -> None:
        if self._reloads.get(key) is task:
            del self._reloads[key]

    async def _reload(self, entry: ModelEntry, version: int, delay: float, lost: LoadedVersion | None) -> None:
        """Loads a lost version again, ever more rarely if that fails, unless it fares otherwise meanwhile."""
        if lost is not None:
            await lost.close()
        while True:
            await asyncio.sleep(delay)
            async with self._holding(entry, "load"):
                still_lost = entry.moving.get(version) in (VersionState.LOADING, VersionState.FAILED)
                # Without Triton it is loaded when that is back.
                if not still_lost or not self._available or await self._load_again(entry, version):
                    return
            delay = _next_delay(entry, version)
            log.info("version %s of model %s is loaded again in %.0f s", version, entry.name, delay)

    async def close(self) -> None:
        """Lets operations under way finish, then closes all streams. What is loaded stays wanted."""
        reloads = [*self._reloads.values()]
        for reload in reloads:
            reload.cancel()
        if reloads:
            await asyncio.wait(reloads)
        if self._running:
            await asyncio.wait(self._running, timeout=CLOSE_SECONDS)
        await asyncio.gather(*(loaded.drain() for entry in self.models() for loaded in entry.loaded.values()))

    # -- one operation a name ------------------------------------------------------------------------------------

    def _entry(self, name: str) -> ModelEntry:
        return self._models.setdefault(name, ModelEntry(name))

    def _forget_empty(self, entry: ModelEntry) -> None:
        if not entry.versions and not entry.fitting and not entry.up and not entry.turn.taken:
            self._models.pop(entry.name, None)

    async def _operate(self, entry: ModelEntry, operation: str, work: Callable[[], Awaitable[T]]) -> T:
        """Runs an operation to its end, even if the caller goes away half way. Raises OPERATION_IN_PROGRESS."""
        return await asyncio.shield(self._begin(entry, operation, work))

    def _check_free(self, entry: ModelEntry) -> None:
        if entry.turn.taken:
            raise self.in_progress(entry.name, entry.turn.operation)

    def _begin(self, entry: ModelEntry, operation: str, work: Callable[[], Awaitable[T]]) -> asyncio.Task[T]:
        """Takes the model's turn at once, and starts the work. Raises ServiceError OPERATION_IN_PROGRESS."""
        self._check_free(entry)
        entry.turn.take(operation)

        async def run() -> T:
            try:
                return await work()
            finally:
                self._end(entry)

        return self.to_its_end(run())

    def to_its_end(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Starts work that goes on when its caller goes away, and that a stop waits for."""
        task = asyncio.get_running_loop().create_task(work)
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
    def in_progress(name: str, operation: str) -> ServiceError:
        """Returns the error for an operation on a model that another one keeps from going on."""
        return ServiceError(
            Reason.OPERATION_IN_PROGRESS,
            f"another operation on model {name!r} is under way ({operation}); try again when it is done",
            {"model": name, "operation": operation},
        )


def _reload_delay(crashes: int) -> float:
    """Returns how many seconds to wait before the reload after so many crashes in a row."""
    return 0.0 if crashes <= 1 else min(FIRST_RELOAD_DELAY * 2.0 ** (crashes - 2), LONGEST_RELOAD_DELAY)


def _next_delay(entry: ModelEntry, version: int) -> float:
    """Counts one more failure of a version; returns how many seconds to wait before it is loaded again."""
    entry.crashes[version] += 1
    return _reload_delay(entry.crashes[version])


def _shared(entry: ModelEntry) -> SharedModel:
    aliases = {alias.name: alias.version for alias in entry.aliases.values()}
    versions = {version: loaded.serial for version, loaded in entry.loaded.items()}
    configs = {
        version: loaded.manifest.own_config_digest
        for version, loaded in entry.loaded.items()
        if loaded.manifest.of_operator
    }
    return SharedModel(entry.name, entry.serving, entry.capacity, aliases, versions, configs)


def _is_idle(entry: ModelEntry) -> bool:
    """Whether a model is loaded and nothing is under way with it."""
    busy = entry.turn.taken or entry.moving.keys() or any(one.pending_requests for one in entry.loaded.values())
    return bool(entry.loaded) and not busy


def _is_away(error: Exception) -> bool:
    return isinstance(error, ServiceError) and error.reason == Reason.TRITON_UNAVAILABLE
