"""Aliases: each move is one step, durable, in which no request fails; and one call moves it back."""

from __future__ import annotations

import asyncio

import pytest

from service.domain.aliases import Aliases
from service.domain.entities import Alias, LoadOrder
from service.domain.errors import Reason, ServiceError
from service.domain.registry import Registry
from tests.unit.domain.fakes import START, Gate, turns, until
from tests.unit.domain.test_domain_registry import World, reason_of
from tests.unit.domain.test_domain_versions import ALONGSIDE, crash_of, loaded, two_loaded


@pytest.fixture
def world() -> World:
    return World()


async def champion_is_1(world: World, *others: str) -> tuple[Registry, Aliases]:
    """Returns a registry with versions 1 and 2 loaded, of which 1 is the champion."""
    registry = await two_loaded(world, *others)
    aliases = Aliases(registry, world.clock)
    await aliases.set("a", "champion", 1, "test")
    return registry, aliases


def champion(registry: Registry) -> int:
    return registry.serving("a", "champion").manifest.version


async def test_an_alias_is_moved_and_moved_back_in_one_call(world: World) -> None:
    registry, aliases = await champion_is_1(world)
    assert champion(registry) == 1
    await aliases.set("a", "champion", 2, "test")
    assert champion(registry) == 2
    assert await world.journal.aliases() == [Alias("a", "champion", 2, 1, START)]
    await aliases.roll_back("a", "champion", "test")
    assert champion(registry) == 1
    assert registry.serving("a", None).manifest.version == 1
    assert await world.journal.aliases() == [Alias("a", "champion", 1, None, START)]


async def test_a_rollback_repeated_by_mistake_does_not_undo_itself(world: World) -> None:
    registry, aliases = await champion_is_1(world)
    assert await reason_of(aliases.roll_back("a", "champion", "test")) == Reason.NOTHING_TO_ROLL_BACK
    await aliases.set("a", "champion", 2, "test")
    await aliases.roll_back("a", "champion", "test")
    assert await reason_of(aliases.roll_back("a", "champion", "test")) == Reason.NOTHING_TO_ROLL_BACK
    assert champion(registry) == 1


async def test_setting_an_alias_to_what_it_names_changes_nothing(world: World) -> None:
    registry, aliases = await champion_is_1(world)
    await aliases.set("a", "champion", 2, "test")
    world.clock.forward(60)
    await aliases.set("a", "champion", 2, "test")
    assert registry.model("a").alias("champion") == Alias("a", "champion", 2, 1, START)


async def test_unknown_models_versions_and_aliases_are_told_apart(world: World) -> None:
    registry, aliases = await champion_is_1(world)
    for call in (
        aliases.roll_back("a", "champoin", "test"),
        aliases.delete("a", "champoin"),
        registry.unload("a", "champoin"),
    ):
        with pytest.raises(ServiceError, match="did you mean 'champion'") as refused:
            await call
        assert refused.value.reason == Reason.ALIAS_NOT_FOUND
        assert refused.value.metadata == {"model": "a", "alias": "champoin", "nearest": "champion"}
    with pytest.raises(ServiceError, match="did you mean 'champion'"):
        registry.serving("a", "champoin")
    assert await reason_of(aliases.set("a", "champion", 9, "test")) == Reason.VERSION_NOT_FOUND
    assert await reason_of(aliases.set("b", "champion", 1, "test")) == Reason.MODEL_NOT_FOUND


async def test_an_alias_of_a_model_that_is_not_loaded_is_only_a_name(world: World) -> None:
    registry = await world.started("a")
    world.put("a", 2)
    aliases = Aliases(registry, world.clock)
    await aliases.set("a", "champion", 1, "test")
    await aliases.set("a", "champion", 2, "test")
    assert world.inference.calls == []
    with pytest.raises(ServiceError, match="version 2 of model 'a', which alias 'champion' names, is not loaded"):
        registry.serving("a", "champion")
    await registry.load("a", "champion", LoadOrder("test"))
    assert champion(registry) == 2


async def test_a_version_that_is_not_loaded_is_loaded_before_the_alias_moves_to_it(world: World) -> None:
    registry, aliases = await champion_is_1(world)
    world.put("a", 3)
    world.inference.load_gate.shut()
    moving = asyncio.create_task(aliases.set("a", "champion", 3, "eve"))
    await until(lambda: world.inference.load_gate.waiting == 1)
    assert champion(registry) == 1
    world.inference.load_gate.open()
    await moving
    assert champion(registry) == 3
    assert registry.serving("a", 3).loaded_by == "eve"
    assert registry.serving("a", None).manifest.version == 1


async def test_an_alias_stays_where_it_is_when_its_new_version_cannot_be_loaded(world: World) -> None:
    registry, aliases = await champion_is_1(world)
    world.put("a", 3)
    world.inference.load_errors["a"] = ServiceError(Reason.LOAD_FAILED, "no")
    assert await reason_of(aliases.set("a", "champion", 3, "test")) == Reason.LOAD_FAILED
    world.limit = 2
    registry.max_loaded = 2
    assert await reason_of(aliases.set("a", "champion", 3, "test")) == Reason.TOO_MANY_LOADED_MODELS
    assert champion(registry) == 1
    assert await world.journal.aliases() == [Alias("a", "champion", 1, None, START)]


async def test_a_rollback_loads_the_version_that_has_gone(world: World) -> None:
    registry, aliases = await champion_is_1(world)
    await aliases.set("a", "champion", 2, "test")
    await registry.unload("a", 1)
    await aliases.roll_back("a", "champion", "test")
    assert champion(registry) == 1


async def test_a_rollback_from_a_version_that_crashes_does_not_wait_for_it(world: World) -> None:
    registry, aliases = await champion_is_1(world)
    await aliases.set("a", "champion", 2, "test")
    world.inference.load_gate.shut()
    await crash_of(world, 2)
    await until(lambda: world.inference.load_gate.waiting == 1)
    await aliases.roll_back("a", "champion", "test")
    assert champion(registry) == 1
    world.inference.load_gate.open()
    await until(lambda: loaded(registry) == [1, 2])


async def test_an_alias_moves_while_another_version_is_being_loaded(world: World) -> None:
    registry, aliases = await champion_is_1(world)
    world.put("a", 3)
    world.inference.load_gate.shut()
    loading = asyncio.create_task(registry.load("a", 3, ALONGSIDE))
    await until(lambda: world.inference.load_gate.waiting == 1)
    await aliases.set("a", "champion", 2, "test")
    assert champion(registry) == 2
    world.inference.load_gate.open()
    await loading


async def test_a_load_in_place_leaves_a_version_that_an_alias_names(world: World) -> None:
    registry, _ = await champion_is_1(world)
    world.put("a", 3)
    await registry.load("a", 3, LoadOrder("test"))
    assert loaded(registry) == [1, 2, 3]
    assert (champion(registry), registry.serving("a", None).manifest.version) == (1, 3)


async def test_an_alias_that_moves_during_a_load_keeps_its_new_version(world: World) -> None:
    """The load would replace version 1, the serving one; before it does, the alias is moved there."""
    registry, aliases = await champion_is_1(world)
    await aliases.set("a", "champion", 2, "test")
    world.put("a", 3)
    world.inference.load_gate.shut()
    loading = asyncio.create_task(registry.load("a", 3, LoadOrder("test")))
    await until(lambda: world.inference.load_gate.waiting == 1)
    await aliases.roll_back("a", "champion", "test")
    world.inference.load_gate.open()
    await loading
    assert loaded(registry) == [1, 2, 3]
    assert champion(registry) == 1


async def test_a_move_waits_for_a_load_that_is_just_being_noted(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it could go to the version that the load has already chosen to replace."""
    registry, aliases = await champion_is_1(world)
    await aliases.set("a", "champion", 2, "test")
    world.put("a", 3)
    note, gate = world.journal.want_loaded, Gate()
    gate.shut()

    async def note_late(wanted: object) -> None:
        await gate.passed()
        await note(wanted)  # type: ignore[arg-type]

    monkeypatch.setattr(world.journal, "want_loaded", note_late)
    loading = asyncio.create_task(registry.load("a", 3, LoadOrder("test")))
    await until(lambda: gate.waiting == 1)
    moving = asyncio.create_task(aliases.roll_back("a", "champion", "test"))
    await turns(20)
    assert not moving.done()
    assert champion(registry) == 2
    gate.open()
    await loading
    assert await reason_of(moving) == Reason.OPERATION_IN_PROGRESS
    assert champion(registry) == 2
    await aliases.roll_back("a", "champion", "test")
    assert champion(registry) == 1


async def test_a_move_goes_on_when_its_caller_goes(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    registry, aliases = await champion_is_1(world)
    note, gate = world.journal.set_alias, Gate()
    gate.shut()

    async def note_late(alias: Alias) -> None:
        await gate.passed()
        await note(alias)

    monkeypatch.setattr(world.journal, "set_alias", note_late)
    moving = asyncio.create_task(aliases.set("a", "champion", 2, "test"))
    await until(lambda: gate.waiting == 1)
    moving.cancel()
    await asyncio.wait([moving])
    gate.open()
    await until(lambda: champion(registry) == 2)
    assert (await world.journal.aliases())[0].version == 2


async def test_a_move_that_the_journal_cannot_note_is_none(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    registry, aliases = await champion_is_1(world)

    async def fails(alias: Alias) -> None:
        raise ServiceError(Reason.DATABASE_UNAVAILABLE, "away")

    monkeypatch.setattr(world.journal, "set_alias", fails)
    assert await reason_of(aliases.set("a", "champion", 2, "test")) == Reason.DATABASE_UNAVAILABLE
    assert champion(registry) == 1


async def test_a_deleted_alias_is_unknown_and_its_version_answers_on(world: World) -> None:
    registry, aliases = await champion_is_1(world)
    await aliases.delete("a", "champion")
    assert await world.journal.aliases() == []
    with pytest.raises(ServiceError, match="no alias"):
        registry.serving("a", "champion")
    assert loaded(registry) == [1, 2]


async def test_a_version_with_an_alias_is_removed_only_with_force_and_the_alias_goes_too(world: World) -> None:
    registry, aliases = await champion_is_1(world)
    await aliases.set("a", "champion", 2, "test")
    await registry.unload("a")
    with pytest.raises(ServiceError, match="has the alias champion") as refused:
        await registry.remove("a", 2, False)
    assert refused.value.reason == Reason.VERSION_HAS_ALIAS
    await registry.remove("a", 1, False)
    assert await reason_of(aliases.roll_back("a", "champion", "test")) == Reason.NOTHING_TO_ROLL_BACK
    world.put("a", 3)
    await registry.remove("a", 2, True)
    assert await world.journal.aliases() == []


async def test_a_model_goes_with_its_aliases(world: World) -> None:
    registry, _ = await champion_is_1(world)
    await registry.remove("a", None, True)
    assert await world.journal.aliases() == []
    world.put("a")
    assert registry.model("a").aliases == {}


async def test_no_alias_is_made_under_a_removal(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    registry, aliases = await champion_is_1(world)
    world.inference.infer_gate.shut()
    removing = asyncio.create_task(registry.remove("a", None, True))
    await asyncio.sleep(0)
    assert await reason_of(aliases.set("a", "challenger", 2, "test")) == Reason.OPERATION_IN_PROGRESS
    world.inference.infer_gate.open()
    await removing


async def test_aliases_are_there_after_a_restart_as_far_as_their_versions_are(world: World) -> None:
    for alias in (Alias("a", "champion", 1, 2, START), Alias("a", "challenger", 7, None, START)):
        await world.journal.set_alias(alias)
    registry = await world.started("a")
    assert registry.model("a").aliases == {"champion": Alias("a", "champion", 1, 2, START)}
    assert [alias.name for alias in await world.journal.aliases()] == ["champion"]
    back = Aliases(registry, world.clock).roll_back("a", "champion", "test")
    assert await reason_of(back) == Reason.VERSION_NOT_FOUND
