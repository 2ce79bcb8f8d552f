"""A model as the registry knows it: its versions, which of them answer, and its aliases."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field

from service.domain.entities import Alias, Capacity, Choice, LoadOrder, StoredVersion, VersionState, WantedModel
from service.domain.errors import Reason, ServiceError
from service.domain.loaded import LoadedVersion
from service.domain.nearest import hint, nearest
from service.domain.turns import Turn


@dataclass(slots=True)
class ModelEntry:
    """A model as the registry knows it.

    Attributes:
        versions: Every version on disk.
        loaded: The versions that answer.
        moving: The versions that are being loaded or unloaded, each with its state; FAILED: Triton refused it, and is asked
            again.
        leaving: The versions whose last calls are being answered.
        aliases: The aliases by name.
        wanted: What should be loaded, as the journal has it; None for nothing.
        held: The versions that Triton may hold.
        turn: Which operation is under way.
        commit: Held while `wanted`, `loaded` or `aliases` are changed together with the journal.
        fitting: The job that trains a version of the model, or "".
        crashes: How often in a row a version crashed soon after its load, or was refused when it was loaded again.
        hangs: How often in a row Triton never answered to a version's load.
    """

    name: str
    versions: dict[int, StoredVersion] = field(default_factory=dict)
    loaded: dict[int, LoadedVersion] = field(default_factory=dict)
    moving: dict[int, VersionState] = field(default_factory=dict)
    leaving: set[LoadedVersion] = field(default_factory=set)
    aliases: dict[str, Alias] = field(default_factory=dict)
    wanted: WantedModel | None = None
    held: set[int] = field(default_factory=set)
    turn: Turn = field(default_factory=Turn)
    commit: asyncio.Lock = field(default_factory=asyncio.Lock)
    fitting: str = ""
    crashes: Counter[int] = field(default_factory=Counter)
    hangs: Counter[int] = field(default_factory=Counter)

    def state(self, version: int) -> VersionState:
        """Returns the state of a version."""
        if version in self.moving:
            return self.moving[version]
        if version in self.loaded:
            return VersionState.LOADED
        return VersionState.FAILED if self.versions[version].error else VersionState.STORED

    @property
    def of_operator(self) -> bool:
        """Whether an operator has placed it: no call changes or deletes its files."""
        return any(stored.of_operator for stored in self.versions.values())

    @property
    def up(self) -> set[int]:
        """The versions that count against MAX_LOADED_MODELS: those that are loaded, or on their way in or out."""
        return self.loaded.keys() | self.moving.keys()

    @property
    def stale(self) -> set[int]:
        """The versions that Triton may hold although they do not answer, and must unload before it can load them.

        After a crash, and after a load that failed half way.
        """
        return self.held - self.loaded.keys()

    @property
    def serving(self) -> int:
        """The version that is meant by requests which name none; 0 if there is none."""
        return self.wanted.serving if self.wanted is not None else 0

    @property
    def capacity(self) -> Capacity:
        """How much of it may be at work."""
        return self.wanted.capacity if self.wanted is not None else Capacity()

    def answering(self, choice: Choice) -> LoadedVersion | None:
        """Returns the loaded version that a prediction asks for, or None."""
        if isinstance(choice, str):
            alias = self.aliases.get(choice)
            return self.loaded.get(alias.version) if alias is not None else None
        return self.loaded.get(self.serving if choice is None else choice)

    def alias(self, name: str) -> Alias:
        """Returns an alias. Raises ServiceError ALIAS_NOT_FOUND naming the nearest known one."""
        if name not in self.aliases:
            raise ServiceError(
                Reason.ALIAS_NOT_FOUND,
                f"model {self.name!r} has no alias {name!r}{hint(name, self.aliases)}",
                {"model": self.name, "alias": name, "nearest": nearest(name, self.aliases)},
            )
        return self.aliases[name]

    def aliases_of(self, version: int) -> list[str]:
        """Returns the names of the aliases that name a version."""
        return sorted(alias.name for alias in self.aliases.values() if alias.version == version)

    def replaced_by(self, version: int, order: LoadOrder) -> set[int]:
        """Returns the version in whose place an order loads another one, if it goes: none that an alias names does."""
        gone = {self.serving} - {0, version}
        return set() if order.alongside else {old for old in gone if not self.aliases_of(old)}

    def wanted_after(self, version: int, order: LoadOrder) -> WantedModel:
        """Returns what should be loaded when a version is loaded as ordered."""
        before = dict(self.wanted.loaded_by) if self.wanted is not None else {}
        if version not in self.loaded:
            before[version] = order.loaded_by
        left = {known: who for known, who in before.items() if known not in self.replaced_by(version, order)}
        stays = order.alongside and self.serving in self.up - {version}
        serving = self.serving if stays else version
        return WantedModel(self.name, serving, left, order.changed(self.capacity))

    def why_not_answering(self, choice: Choice, available: bool) -> ServiceError:
        """Returns why a version on disk does not answer.

        Args:
            available: Whether Triton is there.
        """
        version = self._version_meant(choice)
        state, metadata = self.moving.get(version), {"model": self.name}
        if state in (VersionState.LOADING, VersionState.FAILED) and not available:
            message = (
                f"Triton is being started again; model {self.name!r} will be loaded without further action, try again"
            )
            return ServiceError(Reason.TRITON_UNAVAILABLE, message, metadata)
        if state == VersionState.LOADING:
            return ServiceError(Reason.MODEL_LOADING, f"model {self.name!r} is being loaded; try again", metadata)
        if state == VersionState.FAILED:
            why = "Triton refused it; the service's log says why, and it will be tried again"
            return ServiceError(Reason.MODEL_LOADING, f"model {self.name!r} could not be loaded: {why}", metadata)
        message = f"{self._which(choice, version)} is not loaded{self._what_is_loaded()}; call Load first"
        return ServiceError(Reason.MODEL_NOT_LOADED, message, metadata)

    def _version_meant(self, choice: Choice) -> int:
        if isinstance(choice, str):
            return self.alias(choice).version
        if choice is not None:
            return choice
        return self.serving if self.serving in self.up else next(iter(self.moving), self.serving)

    def _which(self, choice: Choice, version: int) -> str:
        if choice is None:
            return f"model {self.name!r}"
        named = f", which alias {choice!r} names," if isinstance(choice, str) else ""
        return f"version {version} of model {self.name!r}{named}"

    def _what_is_loaded(self) -> str:
        if not self.loaded:
            return ""
        numbers = ", ".join(map(str, sorted(self.loaded)))
        return f"; version {numbers} is" if len(self.loaded) == 1 else f"; versions {numbers} are"
