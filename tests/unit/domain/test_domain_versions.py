"""Several versions of a model at once: which answers whom, what counts against the limit, and what comes back."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import pytest

from service.domain import registry as module
from service.domain.entities import Capacity, LoadOrder, Manifest, StoredVersion, VersionState, WantedModel
from service.domain.errors import Reason, ServiceError
from service.domain.ports import LoadHung, ModelCrashed
from service.domain.registry import MAX_HANGS, Registry
from tests.unit.domain.fakes import manifest, rows_of, turns, until
from tests.unit.domain.test_domain_registry import World, note_delays, reason_of

ALONGSIDE = LoadOrder("test", alongside=True)


@pytest.fixture
def world() -> World:
    return World()


async def two_loaded(world: World, *others: str) -> Registry:
    """Returns a registry whose model `a` has versions 1, which serves, and 2 beside it."""
    registry = await world.started("a", *others)
    world.put("a", 2)
    await registry.load("a", 1, LoadOrder("ann"))
    await registry.load("a", 2, LoadOrder("bob", alongside=True))
    return registry


async def crash_of(world: World, version: int) -> None:
    """Has the next prediction find that a version is gone."""
    batcher = world.registry.serving("a", version).batcher
    world.inference.infer_errors["a"] = ModelCrashed("a")
    assert await reason_of(batcher.predict(rows_of(2), 1)) == Reason.MODEL_LOADING
    world.inference.infer_errors.clear()


def loaded(registry: Registry) -> list[int]:
    return sorted(registry.model("a").loaded)


# -- which version answers -------------------------------------------------------------------------------------------


async def test_a_version_loaded_alongside_answers_who_names_it_and_nobody_else(world: World) -> None:
    registry = await two_loaded(world)
    assert world.inference.held == {"a": [1, 2]}
    assert registry.serving("a", None).manifest.version == 1
    assert registry.serving("a", 2).manifest.version == 2
    assert [registry.model("a").state(version) for version in (1, 2)] == [VersionState.LOADED] * 2
    assert await world.journal.wanted_models() == [WantedModel("a", 1, {1: "ann", 2: "bob"})]


async def test_alongside_of_nothing_serves(world: World) -> None:
    registry = await world.started("a")
    await registry.load("a", 1, ALONGSIDE)
    assert registry.serving("a", None).manifest.version == 1


async def test_a_load_of_a_loaded_version_makes_it_the_serving_one_in_place_of_the_other(world: World) -> None:
    registry = await two_loaded(world)
    await registry.load("a", 2, LoadOrder("test"))
    assert registry.serving("a", None).manifest.version == 2
    assert registry.serving("a", 2).loaded_by == "bob"
    assert world.reason("a", 1) == Reason.MODEL_NOT_LOADED
    assert world.inference.held == {"a": [2]}
    assert await world.wanted() == {"a": 2}


async def test_a_load_in_place_leaves_versions_alongside_alone(world: World) -> None:
    registry = await two_loaded(world)
    world.put("a", 3)
    await registry.load("a", 3, LoadOrder("test"))
    assert loaded(registry) == [2, 3]
    assert registry.serving("a", None).manifest.version == 3
    assert world.inference.held == {"a": [2, 3]}


async def test_a_load_that_changes_nothing_asks_nobody(world: World) -> None:
    registry = await two_loaded(world)
    calls = list(world.inference.calls)
    for version, order in ((1, LoadOrder("eve")), (1, ALONGSIDE), (2, ALONGSIDE)):
        await registry.load("a", version, order)
    assert world.inference.calls == calls
    assert registry.serving("a", 1).loaded_by == "ann"


async def test_the_old_version_answers_until_the_journal_has_the_new_one(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = await world.started("a")
    world.put("a", 2)
    await registry.load("a", 1, LoadOrder("test"))
    seen: list[int] = []
    note = world.journal.want_loaded

    async def look_and_note(wanted: WantedModel) -> None:
        seen.append(registry.serving("a", None).manifest.version)
        await note(wanted)
        await turns()
        seen.append(registry.serving("a", None).manifest.version)

    monkeypatch.setattr(world.journal, "want_loaded", look_and_note)
    await registry.load("a", 2, LoadOrder("test"))
    assert seen == [1, 1]
    assert registry.serving("a", None).manifest.version == 2


# -- unload and remove -----------------------------------------------------------------------------------------------


async def test_one_version_is_unloaded_and_the_others_answer_on(world: World) -> None:
    registry = await two_loaded(world)
    stream = world.inference.streams[0]
    await registry.unload("a", 2)
    assert world.reason("a", 2) == Reason.MODEL_NOT_LOADED
    assert registry.serving("a", None).manifest.version == 1
    assert world.inference.held == {"a": [1]}
    assert not stream.closed.is_set()
    assert ("unload", "a") not in world.inference.calls


async def test_when_the_serving_version_is_unloaded_the_highest_takes_its_place(world: World) -> None:
    registry = await two_loaded(world)
    world.put("a", 3)
    await registry.load("a", 3, ALONGSIDE)
    await registry.unload("a", 1)
    assert registry.serving("a", None).manifest.version == 3
    assert await world.wanted() == {"a": 3}


async def test_an_unload_without_a_version_unloads_all(world: World) -> None:
    registry = await two_loaded(world)
    await registry.unload("a")
    assert loaded(registry) == []
    assert world.inference.held == {}
    assert await world.wanted() == {}


async def test_a_loaded_version_is_removed_only_with_force_and_others_stay(world: World) -> None:
    registry = await two_loaded(world)
    with pytest.raises(ServiceError, match="version 2 of model 'a' is loaded") as refused:
        await registry.remove("a", 2, False)
    assert refused.value.reason == Reason.MODEL_LOADED
    assert await registry.remove("a", 2, True) == [2]
    assert loaded(registry) == [1]
    assert world.inference.held == {"a": [1]}
    assert await world.wanted() == {"a": 1}


# -- the limit -------------------------------------------------------------------------------------------------------


async def test_each_loaded_version_counts(world: World) -> None:
    world.limit = 2
    registry = await two_loaded(world, "b")
    world.put("a", 3)
    for model, order in (("b", LoadOrder("test")), ("a", ALONGSIDE)):
        with pytest.raises(ServiceError, match=r"2 of 2 versions .* of a \(2\)") as refused:
            await registry.load(model, None, order)
        assert refused.value.reason == Reason.TOO_MANY_LOADED_MODELS
    await registry.load("a", 3, LoadOrder("test"))
    assert loaded(registry) == [2, 3]


async def test_evict_unloads_a_model_with_all_its_versions_but_never_the_one_that_is_loaded(world: World) -> None:
    world.limit = 3
    registry = await two_loaded(world, "b")
    await registry.load("b", None, LoadOrder("test"))
    world.put("b", 2)
    assert await registry.load("b", 2, LoadOrder("test", alongside=True, evict=True)) == ["a"]
    assert world.inference.held == {"b": [1, 2]}
    world.put("b", 3)
    world.put("b", 4)
    await registry.load("b", 3, LoadOrder("test", alongside=True))
    with pytest.raises(ServiceError, match="no other model is idle"):
        await registry.load("b", 4, LoadOrder("test", alongside=True, evict=True))


# -- failures --------------------------------------------------------------------------------------------------------


async def test_a_version_that_triton_refuses_leaves_the_others_alone(world: World) -> None:
    registry = await two_loaded(world)
    world.put("a", 3)
    world.inference.load_errors["a"] = ServiceError(Reason.LOAD_FAILED, "no")
    assert await reason_of(registry.load("a", 3, ALONGSIDE)) == Reason.LOAD_FAILED
    assert loaded(registry) == [1, 2]
    assert world.state("a", 3) == VersionState.FAILED
    assert await world.journal.wanted_models() == [WantedModel("a", 1, {1: "ann", 2: "bob"})]
    world.inference.load_errors.clear()
    await registry.load("a", 3, ALONGSIDE)
    assert world.inference.held == {"a": [1, 2, 3]}


async def test_a_version_of_another_backend_is_loaded_beside_the_others(world: World) -> None:
    registry = await two_loaded(world)
    registry.add(StoredVersion("a", 3, replace(manifest("a", 3), backend="fil")))
    await registry.load("a", 3, ALONGSIDE)
    assert loaded(registry) == [1, 2, 3]
    assert world.inference.held == {"a": [1, 2, 3]}


async def test_a_version_that_crashes_is_loaded_again_while_the_others_answer(world: World) -> None:
    registry = await two_loaded(world)
    stream = world.inference.streams[1]
    world.inference.load_gate.shut()
    await crash_of(world, 1)
    await until(lambda: world.inference.load_gate.waiting == 1)
    assert world.reason("a", 1) == world.reason("a") == Reason.MODEL_LOADING
    assert registry.serving("a", 2).manifest.version == 2
    world.inference.load_gate.open()
    await until(lambda: loaded(registry) == [1, 2])
    assert [call for _, call in world.inference.calls[-2:]] == ["a 2", "a 1,2"]
    assert not stream.closed.is_set()
    assert registry.serving("a", None).manifest.version == 1


async def test_two_versions_that_crash_together_both_come_back(world: World) -> None:
    registry = await two_loaded(world)
    await crash_of(world, 1)
    await crash_of(world, 2)
    await until(lambda: loaded(registry) == [1, 2])
    assert world.inference.held == {"a": [1, 2]}


async def test_crashes_of_one_version_do_not_count_for_another(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    delays: list[float] = []
    registry = await two_loaded(world)
    note_delays(registry, delays, monkeypatch)
    for version in (1, 1, 1, 2):
        await crash_of(world, version)
        await until(lambda: loaded(registry) == [1, 2])
    assert delays == [0, 1, 2, 0]


async def test_a_version_that_crashed_is_replaced_without_coming_back(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FIRST_RELOAD_DELAY", 0.01)
    registry = await two_loaded(world)
    await crash_of(world, 1)
    await until(lambda: loaded(registry) == [1, 2])
    await crash_of(world, 1)
    await registry.load("a", 2, LoadOrder("test"))
    await until(lambda: not registry._reloads)
    assert loaded(registry) == [2]
    assert world.inference.held == {"a": [2]}


async def test_all_versions_come_back_with_triton(world: World) -> None:
    registry = await two_loaded(world, "b")
    await registry.load("b", None, LoadOrder("test", instances=3, max_batch_rows=4))
    await world.dies()
    assert world.reason("a") == world.reason("a", 2) == Reason.TRITON_UNAVAILABLE
    await world.comes_back()
    assert loaded(registry) == [1, 2]
    assert registry.serving("a", None).manifest.version == 1
    assert world.inference.instances == {"a": 1, "b": 3}
    assert registry.serving("b", None).batcher.max_batch_rows == 4


async def test_all_versions_come_back_with_the_service_as_far_as_they_are_on_disk(world: World) -> None:
    await world.journal.want_loaded(WantedModel("a", 1, {1: "ann", 2: "bob", 7: "eve"}, Capacity(2, 64, 5)))
    await world.journal.want_loaded(WantedModel("b", 9, {1: "ann", 9: "eve"}))
    world.limit = 10
    world.artifacts.put("a", 2)
    world.registry = Registry(world.artifacts, world.journal, world.inference, world.clock, 10, 1000)
    for model, version in (("a", 1), ("a", 2), ("b", 1)):
        world.put(model, version)
    await world.registry.recall()
    await world.registry.triton_is_up()
    assert world.inference.held == {"a": [1, 2], "b": [1]}
    assert world.inference.instances == {"a": 2, "b": 1}
    assert world.registry.serving("a", 2).loaded_by == "bob"
    assert world.registry.serving("b", None).manifest.version == 1
    assert await world.wanted() == {"a": 1, "b": 1}


async def test_no_more_versions_come_back_than_may_be_loaded_and_the_serving_one_is_among_them(world: World) -> None:
    world.limit = 2
    await world.journal.want_loaded(WantedModel("a", 2, {1: "ann", 2: "bob", 3: "eve"}))
    for version in (1, 2, 3):
        world.artifacts.put("a", version)
    world.registry = Registry(world.artifacts, world.journal, world.inference, world.clock, world.limit, 1000)
    for version in (1, 2, 3):
        world.put("a", version)
    await world.registry.recall()
    await world.registry.triton_is_up()
    assert loaded(world.registry) == [1, 2]
    assert world.state("a", 3) == VersionState.STORED


async def test_an_unload_that_triton_refuses_is_not_undone_by_a_reload(world: World) -> None:
    registry = await two_loaded(world)
    world.inference.load_errors["a"] = ServiceError(Reason.LOAD_FAILED, "no")
    await crash_of(world, 2)
    await until(lambda: world.state("a", 2) == VersionState.FAILED)
    await crash_of(world, 1)
    world.inference.unload_errors["a"] = ServiceError(Reason.INTERNAL, "no")
    assert await reason_of(registry.unload("a")) == Reason.INTERNAL
    world.inference.load_errors.clear()
    world.inference.unload_errors.clear()
    await turns(50)
    assert loaded(registry) == []
    await registry.unload("a")
    assert world.inference.held == {}


async def test_a_version_whose_load_hangs_again_and_again_is_left_out_and_the_other_comes_back(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = await two_loaded(world)
    serve = world.inference.serve

    async def hang_with_2(manifest: Manifest, beside: Sequence[Manifest], instances: int) -> None:
        if 2 in {one.version for one in (manifest, *beside)}:
            world.inference.calls.append(("hang", "a"))
            raise LoadHung("a")
        await serve(manifest, beside, instances)

    monkeypatch.setattr(world.inference, "serve", hang_with_2)
    for _ in range(MAX_HANGS + 1):
        await world.dies()
        await world.comes_back()
        assert loaded(registry) == [1]
    assert world.inference.calls.count(("hang", "a")) == MAX_HANGS
    assert world.reason("a", 2) == Reason.MODEL_NOT_LOADED


# -- copies and limits -----------------------------------------------------------------------------------------------


async def test_copies_and_limits_hold_for_all_loaded_versions_until_the_model_is_unloaded(world: World) -> None:
    registry = await two_loaded(world)
    await registry.load("a", 2, LoadOrder("test", alongside=True, instances=3, max_batch_rows=5, max_queue_rows=7))
    assert world.inference.instances == {"a": 3}
    assert world.inference.held == {"a": [1, 2]}
    assert [registry.serving("a", version).batcher.max_batch_rows for version in (1, 2)] == [5, 5]
    world.put("a", 3)
    await registry.load("a", 3, ALONGSIDE)
    assert world.inference.instances == {"a": 3}
    (wanted,) = await world.journal.wanted_models()
    assert wanted.capacity == Capacity(3, 5, 7)
    await registry.unload("a")
    await registry.load("a", 1, LoadOrder("test"))
    assert world.inference.instances == {"a": 1}
    assert registry.serving("a", 1).batcher.max_batch_rows == 1024


async def test_limits_alone_need_no_triton(world: World) -> None:
    registry = await two_loaded(world)
    calls = list(world.inference.calls)
    await registry.load("a", 1, LoadOrder("test", max_queue_rows=1))
    world.inference.infer_gate.shut()
    batcher = registry.serving("a", 2).batcher
    asked = [asyncio.create_task(batcher.predict(rows_of(1), 1)) for _ in range(4)]
    await until(lambda: any(task.done() for task in asked))
    world.inference.infer_gate.open()
    ends = await asyncio.gather(*asked, return_exceptions=True)
    assert {end.reason for end in ends if isinstance(end, ServiceError)} == {Reason.PREDICTION_QUEUE_FULL}
    assert world.inference.calls[: len(calls)] == calls


async def test_copies_that_triton_refuses_leave_the_model_as_it_was(world: World) -> None:
    registry = await two_loaded(world)
    world.inference.load_errors["a"] = ServiceError(Reason.LOAD_FAILED, "no memory")
    assert await reason_of(registry.load("a", 1, LoadOrder("test", instances=50))) == Reason.LOAD_FAILED
    assert loaded(registry) == [1, 2]
    assert world.state("a") == VersionState.LOADED
    assert registry.model("a").capacity == Capacity()
    assert (await world.journal.wanted_models())[0].capacity == Capacity()


async def test_a_version_that_crashes_while_copies_are_added_comes_back(world: World) -> None:
    registry = await two_loaded(world)
    world.inference.load_gate.shut()
    changing = asyncio.create_task(registry.load("a", 2, LoadOrder("test", alongside=True, instances=2)))
    await until(lambda: world.inference.load_gate.waiting == 1)
    await crash_of(world, 2)
    world.inference.load_gate.open()
    await changing
    assert registry.model("a").capacity.instances == 2
    await until(lambda: loaded(registry) == [1, 2])


# -- a request that is being read ------------------------------------------------------------------------------------


async def test_a_version_waits_for_requests_that_are_still_being_read(world: World) -> None:
    registry = await two_loaded(world)
    version = registry.serving("a", 1)
    with version.kept(), version.kept():
        unloading = asyncio.create_task(registry.unload("a"))
        await turns(20)
        assert not unloading.done()
        assert (await version.batcher.predict(rows_of(2), 1)).tolist() == [[4]]
    await unloading
