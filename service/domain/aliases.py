"""The aliases of models: set, moved back, deleted; each move is one step in which no request fails."""

from __future__ import annotations

import asyncio

from service.domain.entities import Alias, LoadOrder
from service.domain.errors import Reason, ServiceError
from service.domain.model_entry import ModelEntry
from service.domain.ports import Clock
from service.domain.registry import Registry


class Aliases:
    """Moves aliases.

    Args:
        registry: Knows the models, and loads what an alias is moved to.
        clock: The time of day.
    """

    def __init__(self, registry: Registry, clock: Clock) -> None:
        self._registry = registry
        self._clock = clock

    async def set(self, model: str, name: str, version: int, asked_by: str) -> None:
        """Lets an alias name a version, which is loaded first if the alias's present version is loaded and it is not.

        Args:
            asked_by: Who asked for it; the version's `loaded_by` if it is loaded.

        Raises:
            ServiceError: MODEL_NOT_FOUND, VERSION_NOT_FOUND, OPERATION_IN_PROGRESS, and those of `Registry.load`.
        """
        entry = self._registry.model(model)
        self._registry.stored(model, version)
        await self._to_its_end(entry, name, version, asked_by)

    async def roll_back(self, model: str, name: str, asked_by: str) -> None:
        """Moves an alias back to the version that it named before; once after each move.

        Raises:
            ServiceError: ALIAS_NOT_FOUND, NOTHING_TO_ROLL_BACK, and those of `set`.
        """
        entry = self._registry.model(model)
        alias = entry.alias(name)
        if alias.previous is None:
            raise ServiceError(
                Reason.NOTHING_TO_ROLL_BACK,
                f"alias {name!r} of model {model!r} has not been moved since it was made or rolled back; it names version "
                f"{alias.version}; set it to another one",
                {"model": model, "alias": name},
            )
        self._registry.stored(model, alias.previous)
        await self._to_its_end(entry, name, alias.previous, asked_by, back_from=alias)

    async def delete(self, model: str, name: str) -> None:
        """Deletes an alias.

        Raises:
            ServiceError: MODEL_NOT_FOUND, ALIAS_NOT_FOUND.
        """
        entry = self._registry.model(model)
        entry.alias(name)
        await asyncio.shield(self._registry.to_its_end(self._delete(entry, name)))

    async def _delete(self, entry: ModelEntry, name: str) -> None:
        async with entry.commit:
            await self._registry.drop_alias(entry, name)

    async def _to_its_end(
        self, entry: ModelEntry, name: str, version: int, asked_by: str, back_from: Alias | None = None
    ) -> None:
        moving = self._move(entry, name, version, asked_by, back_from)
        await asyncio.shield(self._registry.to_its_end(moving))

    async def _move(self, entry: ModelEntry, name: str, version: int, asked_by: str, back_from: Alias | None) -> None:
        """Loads the version if that is needed, and moves the alias.

        Args:
            back_from: What is rolled back; if the alias has been moved meanwhile, nothing is.
        """
        if _must_be_loaded(entry, name, version):
            await self._registry.load(entry.name, version, LoadOrder(asked_by, alongside=True))
        async with entry.commit:
            before = entry.aliases.get(name)
            if entry.turn.operation == "remove" or _must_be_loaded(entry, name, version):
                raise self._registry.in_progress(entry.name, entry.turn.operation or "unload")
            if back_from is not None and before is not back_from:
                raise self._registry.in_progress(entry.name, f"move of alias {name}")
            if before is not None and before.version == version:
                return
            previous = before.version if before is not None and back_from is None else None
            await self._registry.put_alias(entry, Alias(entry.name, name, version, previous, self._clock.now()))


def _must_be_loaded(entry: ModelEntry, name: str, version: int) -> bool:
    """Whether requests by an alias are answered, or soon will be, and would not be if it named this version."""
    now = entry.aliases.get(name)
    if now is None or version in entry.loaded:
        return False
    return now.version in entry.loaded or (now.version in entry.up and version not in entry.up)
