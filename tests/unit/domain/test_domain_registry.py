"""The models: one operation a name, races, limits, hand-over of versions, and Triton dying at any moment."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass, field

import pytest

from service.domain import registry as module
from service.domain.entities import LoadOrder, VersionState, WantedModel
from service.domain.errors import Reason, ServiceError
from service.domain.ports import LoadHung, ModelCrashed
from service.domain.registry import MAX_HANGS, STABLE, Registry
from tests.ports.fakes import InMemoryJournal
from tests.unit.domain.fakes import FakeArtifacts, FakeInference, Gate, SetClock, rows_of, turns, until


@dataclass
class World:
    """A registry among fakes."""

    limit: int = 10
    artifacts: FakeArtifacts = field(default_factory=FakeArtifacts)
    journal: InMemoryJournal = field(default_factory=InMemoryJournal)
    inference: FakeInference = field(default_factory=FakeInference)
    clock: SetClock = field(default_factory=SetClock)

    async def started(self, *models: str) -> Registry:
        """Returns a registry with version 1 of some models, whose Triton is up."""
        self.registry = Registry(self.artifacts, self.journal, self.inference, self.clock, self.limit, 1000)
        for model in models:
            self.put(model)
        await self.registry.recall()
        await self.registry.triton_is_up()
        return self.registry

    def put(self, model: str, version: int = 1) -> None:
        self.registry.add(self.artifacts.put(model, version))

    def state(self, model: str, version: int = 1) -> VersionState:
        return self.registry.model(model).state(version)

    async def wanted(self) -> dict[str, int]:
        return {wanted.model: wanted.serving for wanted in await self.journal.wanted_models()}

    async def predict(self, model: str) -> float:
        return float((await self.registry.serving(model, None).batcher.predict(rows_of(2), 1))[0, 0])

    async def loading(self, model: str) -> asyncio.Task[list[str]]:
        """Returns a load that Triton is at work at until `inference.load_gate` is opened."""
        self.inference.load_gate.shut()
        begun = asyncio.create_task(load(self.registry, model))
        await until(lambda: self.inference.load_gate.waiting == 1)
        return begun

    async def predicting(self, model: str) -> asyncio.Task[float]:
        """Returns a prediction that Triton is at work at until `inference.infer_gate` is opened."""
        self.inference.infer_gate.shut()
        begun = asyncio.create_task(self.predict(model))
        await until(lambda: self.inference.infer_gate.waiting == 1)
        return begun

    def reason(self, model: str, version: int | None = None) -> Reason:
        """Why a prediction is refused."""
        with pytest.raises(ServiceError) as refused:
            self.registry.serving(model, version)
        return refused.value.reason

    async def dies(self) -> None:
        self.inference.die()
        await self.registry.triton_is_down()

    async def comes_back(self) -> None:
        await self.inference.start()
        await self.registry.triton_is_up()


@pytest.fixture
def world() -> World:
    return World()


async def load(registry: Registry, model: str, version: int | None = None, evict: bool = False) -> list[str]:
    return await registry.load(model, version, LoadOrder("test", evict=evict))


async def reason_of(call: object) -> Reason:
    with pytest.raises(ServiceError) as refused:
        await call  # type: ignore[misc]
    return refused.value.reason


# -- load and unload -------------------------------------------------------------------------------------------------


async def test_a_loaded_model_answers_and_is_wanted(world: World) -> None:
    registry = await world.started("iris")
    await load(registry, "iris")
    assert await world.predict("iris") == 4
    assert await world.wanted() == {"iris": 1}
    await load(registry, "iris")
    assert world.inference.calls == [("serve", "iris 1")]


async def test_an_unloaded_model_does_not_answer_and_is_not_wanted(world: World) -> None:
    registry = await world.started("iris")
    await load(registry, "iris")
    await registry.unload("iris")
    await registry.unload("iris")
    assert world.reason("iris") == Reason.MODEL_NOT_LOADED
    assert await world.wanted() == {}
    assert world.inference.held == {}
    assert world.inference.calls.count(("unload", "iris")) == 1


async def test_unknown_names_and_versions_are_told_apart(world: World) -> None:
    registry = await world.started("iris")
    with pytest.raises(ServiceError, match="did you mean 'iris'") as refused:
        await load(registry, "irs")
    assert refused.value.metadata == {"model": "irs", "nearest": "iris"}
    assert await reason_of(load(registry, "iris", 7)) == Reason.VERSION_NOT_FOUND
    assert world.reason("iris", 7) == Reason.VERSION_NOT_FOUND


async def test_one_operation_a_name_at_a_time(world: World) -> None:
    registry = await world.started("iris", "wine")
    loading = await world.loading("iris")
    assert world.reason("iris") == Reason.MODEL_LOADING
    for call in (load(registry, "iris"), registry.unload("iris"), registry.remove("iris", None, True)):
        assert await reason_of(call) == Reason.OPERATION_IN_PROGRESS
    assert await reason_of(registry.remove_all(True)) == Reason.OPERATION_IN_PROGRESS
    assert len(registry.models()) == 2
    world.inference.load_gate.open()
    await loading
    await registry.unload("iris")


async def test_an_operation_goes_on_when_its_caller_goes(world: World) -> None:
    registry = await world.started("iris")
    loading = await world.loading("iris")
    loading.cancel()
    await asyncio.wait([loading])
    assert world.state("iris") == VersionState.LOADING
    world.inference.load_gate.open()
    await until(lambda: world.state("iris") == VersionState.LOADED)
    await registry.unload("iris")


@pytest.mark.parametrize("error", [ServiceError(Reason.LOAD_FAILED, "no"), OSError("a bug")])
async def test_a_failed_load_leaves_the_slot_free(world: World, error: Exception) -> None:
    world.limit = 1
    registry = await world.started("iris", "wine")
    world.inference.load_errors["iris"] = error
    with pytest.raises(type(error)):
        await load(registry, "iris")
    assert world.reason("iris") == Reason.MODEL_NOT_LOADED
    assert await world.wanted() == {}
    await load(registry, "wine")


async def test_a_refused_version_is_failed_until_it_loads(world: World) -> None:
    registry = await world.started("iris")
    world.inference.load_errors["iris"] = ServiceError(Reason.LOAD_FAILED, "no")
    assert await reason_of(load(registry, "iris")) == Reason.LOAD_FAILED
    assert world.state("iris") == VersionState.FAILED
    world.inference.load_errors.clear()
    await load(registry, "iris")
    assert world.state("iris") == VersionState.LOADED


async def test_a_damaged_version_never_reaches_triton(world: World) -> None:
    registry = await world.started("iris")
    world.artifacts.verify_error = ServiceError(Reason.ARTIFACT_DAMAGED, "model.onnx")
    assert await reason_of(load(registry, "iris")) == Reason.ARTIFACT_DAMAGED
    assert world.inference.calls == []


async def test_unload_lets_calls_in_flight_finish(world: World) -> None:
    registry = await world.started("iris")
    await load(registry, "iris")
    predicting = await world.predicting("iris")
    unloading = asyncio.create_task(registry.unload("iris"))
    await turns()
    assert world.state("iris") == VersionState.UNLOADING
    assert "iris" in world.inference.held
    world.inference.infer_gate.open()
    await unloading
    assert await predicting == 4


# -- versions take each other's place --------------------------------------------------------------------------------


async def test_a_new_version_takes_over_without_a_gap(world: World) -> None:
    registry = await world.started("iris")
    await load(registry, "iris")
    world.put("iris", 2)
    loading = await world.loading("iris")
    assert registry.serving("iris", None).manifest.version == 1
    assert world.state("iris", 2) == VersionState.LOADING
    world.inference.load_gate.open()
    await loading
    assert registry.serving("iris", None).manifest.version == 2
    assert world.inference.held == {"iris": [2]}
    assert [call for _, call in world.inference.calls] == ["iris 1", "iris 1,2", "iris 2"]
    assert await world.wanted() == {"iris": 2}


async def test_calls_on_the_old_version_finish_before_it_goes(world: World) -> None:
    registry = await world.started("iris")
    await load(registry, "iris")
    world.put("iris", 2)
    predicting = await world.predicting("iris")
    loading = asyncio.create_task(load(registry, "iris"))
    await until(lambda: world.state("iris", 2) == VersionState.LOADED)
    assert world.inference.held == {"iris": [1, 2]}
    world.inference.infer_gate.open()
    await loading
    assert await predicting == 4
    assert world.inference.held == {"iris": [2]}


async def test_the_old_version_stays_when_the_new_one_is_refused(world: World) -> None:
    registry = await world.started("iris")
    await load(registry, "iris")
    world.put("iris", 2)
    world.inference.load_errors["iris"] = ServiceError(Reason.LOAD_FAILED, "no")
    assert await reason_of(load(registry, "iris")) == Reason.LOAD_FAILED
    assert registry.serving("iris", None).manifest.version == 1
    assert await world.wanted() == {"iris": 1}
    assert world.state("iris", 2) == VersionState.FAILED


# -- limits ----------------------------------------------------------------------------------------------------------


async def test_no_more_models_are_loaded_than_may_be(world: World) -> None:
    world.limit = 2
    registry = await world.started("a", "b", "c")
    results = await asyncio.gather(*(load(registry, name) for name in "abc"), return_exceptions=True)
    refused = [one for one in results if isinstance(one, ServiceError)]
    assert [one.reason for one in refused] == [Reason.TOO_MANY_LOADED_MODELS]
    assert refused[0].metadata == {"limit": "2", "loaded": "a,b"}
    assert sorted(world.inference.held) == ["a", "b"]


async def test_evict_unloads_the_least_recently_used_idle_model(world: World) -> None:
    world.limit = 2
    registry = await world.started("a", "b", "c")
    await load(registry, "a")
    await load(registry, "b")
    registry.serving("a", None).last_used += 1000
    assert await load(registry, "c", evict=True) == ["b"]
    assert sorted(world.inference.held) == ["a", "c"]
    assert await world.wanted() == {"a": 1, "c": 1}


async def test_evict_leaves_busy_models_alone(world: World) -> None:
    world.limit = 1
    registry = await world.started("a", "b")
    await load(registry, "a")
    predicting = await world.predicting("a")
    with pytest.raises(ServiceError, match="no other model is idle"):
        await load(registry, "b", evict=True)
    world.inference.infer_gate.open()
    await predicting


async def test_a_second_version_needs_no_second_slot(world: World) -> None:
    world.limit = 1
    registry = await world.started("a")
    await load(registry, "a")
    world.put("a", 2)
    assert await load(registry, "a") == []


# -- remove ----------------------------------------------------------------------------------------------------------


async def test_a_loaded_model_is_removed_only_with_force(world: World) -> None:
    registry = await world.started("iris")
    await load(registry, "iris")
    assert await reason_of(registry.remove("iris", None, False)) == Reason.MODEL_LOADED
    assert await reason_of(registry.remove_all(False)) == Reason.MODEL_LOADED
    assert await registry.remove("iris", None, True) == [1]
    assert world.artifacts.stored == {}
    assert world.inference.held == {}
    assert await world.wanted() == {}
    assert world.reason("iris") == Reason.MODEL_NOT_FOUND


async def test_a_version_that_is_not_loaded_is_removed_beside_the_loaded_one(world: World) -> None:
    registry = await world.started("iris")
    await load(registry, "iris")
    world.put("iris", 2)
    assert await registry.remove("iris", 2, False) == [2]
    assert world.state("iris") == VersionState.LOADED


async def test_nothing_is_removed_under_a_training(world: World) -> None:
    registry = await world.started("iris")
    await registry.begin_fit("iris", "job-1", new_version=True)
    for call in (registry.remove("iris", None, True), registry.remove("iris", 1, True), registry.remove_all(True)):
        assert await reason_of(call) == Reason.OPERATION_IN_PROGRESS
    world.put("iris", 2)
    assert await registry.remove("iris", 1, False) == [1]
    registry.end_fit("iris", "job-1")
    assert await registry.remove("iris", 2, False) == [2]


async def test_no_training_begins_under_a_removal(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = await world.started("iris")
    gate, remove = threading.Event(), world.artifacts.remove
    monkeypatch.setattr(world.artifacts, "remove", lambda *which: gate.wait(5) and remove(*which))
    removing = asyncio.create_task(registry.remove("iris", None, False))
    await asyncio.sleep(0)
    with pytest.raises(ServiceError) as refused:
        await registry.begin_fit("iris", "job-1", new_version=True)
    assert refused.value.reason == Reason.OPERATION_IN_PROGRESS
    gate.set()
    await removing
    assert await registry.begin_fit("iris", "job-1", new_version=False) is None


async def test_a_slow_disk_holds_up_only_the_training_that_begins(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = await world.started("iris")
    gate = threading.Event()
    monkeypatch.setattr(world.artifacts, "of_operator", lambda model: not gate.wait(5))
    beginning = asyncio.create_task(registry.begin_fit("wine", "job-1", new_version=False))
    await turns()
    assert not beginning.done()
    gate.set()
    assert await beginning is None


async def test_remove_all_removes_everything(world: World) -> None:
    registry = await world.started("a", "b")
    await load(registry, "a")
    assert await registry.remove_all(True) == ["a", "b"]
    assert registry.models() == []
    assert world.inference.held == {}


# -- Triton dies -----------------------------------------------------------------------------------------------------


async def test_loaded_models_come_back_with_triton(world: World) -> None:
    registry = await world.started("a", "b")
    await load(registry, "a")
    await world.dies()
    assert world.reason("a") == Reason.TRITON_UNAVAILABLE
    assert world.reason("b") == Reason.MODEL_NOT_LOADED
    assert await reason_of(load(registry, "b")) == Reason.TRITON_UNAVAILABLE
    await world.comes_back()
    assert await world.predict("a") == 4
    assert world.inference.held == {"a": [1]}


async def test_calls_in_flight_fail_when_triton_dies(world: World) -> None:
    registry = await world.started("a")
    await load(registry, "a")
    predicting = await world.predicting("a")
    await world.dies()
    assert await reason_of(predicting) == Reason.TRITON_UNAVAILABLE


async def test_a_first_load_during_which_triton_dies_fails_and_is_not_repeated(world: World) -> None:
    registry = await world.started("a")
    loading = await world.loading("a")
    await world.dies()
    world.inference.load_gate.open()
    assert await reason_of(loading) == Reason.TRITON_UNAVAILABLE
    await world.comes_back()
    assert world.reason("a") == Reason.MODEL_NOT_LOADED
    await load(registry, "a")


async def test_the_old_version_comes_back_if_triton_dies_during_a_hand_over(world: World) -> None:
    registry = await world.started("a")
    await load(registry, "a")
    world.put("a", 2)
    loading = await world.loading("a")
    await world.dies()
    world.inference.load_gate.open()
    assert await reason_of(loading) == Reason.TRITON_UNAVAILABLE
    assert world.reason("a") == Reason.TRITON_UNAVAILABLE
    await world.comes_back()
    assert registry.serving("a", None).manifest.version == 1


async def test_an_unload_while_triton_is_away_holds(world: World) -> None:
    registry = await world.started("a")
    await load(registry, "a")
    await world.dies()
    await registry.unload("a")
    await world.comes_back()
    assert world.inference.held == {}
    assert world.reason("a") == Reason.MODEL_NOT_LOADED


async def test_a_model_keeps_its_place_when_triton_dies_again_during_the_reload(world: World) -> None:
    world.limit = 1
    registry = await world.started("a", "b")
    await load(registry, "a")
    await world.dies()
    await world.inference.start()
    world.inference.load_gate.shut()
    coming = asyncio.create_task(registry.triton_is_up())
    await until(lambda: world.inference.load_gate.waiting == 1)
    await world.dies()
    world.inference.load_gate.open()
    await coming
    assert world.reason("a") == Reason.TRITON_UNAVAILABLE
    await world.comes_back()
    assert await world.predict("a") == 4


async def test_what_triton_holds_against_our_will_is_unloaded(world: World) -> None:
    world.inference.held = {"a": [1], "somebody-elses": [1]}
    registry = Registry(world.artifacts, world.journal, world.inference, world.clock, 10, 1000)
    registry.add(world.artifacts.put("a"))
    await registry.triton_is_up()
    assert world.inference.held == {"somebody-elses": [1]}


async def test_a_wanted_version_that_is_not_on_disk_is_no_longer_wanted(world: World) -> None:
    await world.journal.want_loaded(WantedModel("gone", 3, {3: "test"}))
    await world.started()
    assert await world.wanted() == {}


# -- a model crashes in Triton ---------------------------------------------------------------------------------------


async def crash(world: World, model: str) -> None:
    """Has the next prediction find that the model is gone."""
    world.inference.infer_errors[model] = ModelCrashed(model)
    assert await reason_of(world.predict(model)) == Reason.MODEL_LOADING
    world.inference.infer_errors.clear()


def note_delays(registry: Registry, delays: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets reloads wait for no time, and notes for how long they would have."""
    sleep = asyncio.sleep

    async def note(seconds: float) -> None:
        if asyncio.current_task() in registry._reloads.values():
            delays.append(seconds)
        await sleep(0)

    monkeypatch.setattr(asyncio, "sleep", note)


async def test_a_crashed_model_is_unloaded_and_loaded_without_anyone_asking(world: World) -> None:
    registry = await world.started("a")
    await load(registry, "a")
    await crash(world, "a")
    assert world.reason("a") == Reason.MODEL_LOADING
    await until(lambda: bool(registry.model("a").loaded))
    assert await world.predict("a") == 4
    assert world.inference.calls == [("serve", "a 1"), ("unload", "a"), ("serve", "a 1")]
    assert await world.wanted() == {"a": 1}


async def test_many_callers_of_a_crashed_model_make_one_reload(world: World) -> None:
    registry = await world.started("a")
    await load(registry, "a")
    world.inference.infer_errors["a"] = ModelCrashed("a")
    batcher = registry.serving("a", None).batcher
    answers = await asyncio.gather(*(batcher.predict(rows_of(1), 1) for _ in range(100)), return_exceptions=True)
    assert {answer.reason for answer in answers if isinstance(answer, ServiceError)} == {Reason.MODEL_LOADING}
    world.inference.infer_errors.clear()
    await until(lambda: bool(registry.model("a").loaded))
    assert world.inference.calls.count(("serve", "a 1")) == 2


async def test_a_model_that_crashes_again_and_again_is_reloaded_ever_more_rarely(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    delays: list[float] = []
    registry = await world.started("a")
    note_delays(registry, delays, monkeypatch)
    await load(registry, "a")
    for _ in range(9):
        await crash(world, "a")
        await until(lambda: bool(registry.model("a").loaded))
    assert delays == [0, 1, 2, 4, 8, 16, 32, 60, 60]
    world.clock.forward(STABLE.total_seconds() + 1)
    await crash(world, "a")
    await until(lambda: bool(registry.model("a").loaded))
    assert delays[-1] == 0


async def crashed_twice(world: World, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """Returns a registry whose model waits for its second reload."""
    monkeypatch.setattr(module, "FIRST_RELOAD_DELAY", 3600.0)
    monkeypatch.setattr(module, "LONGEST_RELOAD_DELAY", 3600.0)
    registry = await world.started("a")
    await load(registry, "a")
    await crash(world, "a")
    await until(lambda: bool(registry.model("a").loaded))
    await crash(world, "a")
    await turns()
    assert world.reason("a") == Reason.MODEL_LOADING
    return registry


async def test_a_caller_may_load_a_crashed_model_before_its_time(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = await crashed_twice(world, monkeypatch)
    await load(registry, "a")
    assert await world.predict("a") == 4
    assert world.inference.calls[-2:] == [("unload", "a"), ("serve", "a 1")]
    await registry.close()


async def test_a_crashed_model_that_is_unloaded_or_removed_stays_so(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = await world.started("a", "b")
    await load(registry, "a")
    await load(registry, "b")
    await crash(world, "a")
    await registry.unload("a")
    await crash(world, "b")
    await registry.remove("b", None, True)
    await turns(50)
    assert world.reason("a") == Reason.MODEL_NOT_LOADED
    assert world.inference.held == {}
    assert registry.exists("b") is False


async def test_stopping_does_not_wait_for_a_reload_that_is_far_off(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = await crashed_twice(world, monkeypatch)
    async with asyncio.timeout(1):
        await registry.close()
    assert await world.wanted() == {"a": 1}


async def test_stopping_does_not_wait_for_ever_for_a_load_that_hangs(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CLOSE_SECONDS", 0.01)
    registry = await world.started("a")
    loading = await world.loading("a")
    async with asyncio.timeout(1):
        await registry.close()
    world.inference.die()
    world.inference.load_gate.open()
    assert await reason_of(loading) == Reason.TRITON_UNAVAILABLE


async def test_a_crashed_model_comes_back_with_triton_if_that_dies_too(world: World) -> None:
    registry = await world.started("a")
    await load(registry, "a")
    await crash(world, "a")
    await world.dies()
    await turns(50)
    assert world.reason("a") == Reason.TRITON_UNAVAILABLE
    await world.comes_back()
    assert await world.predict("a") == 4
    assert registry.model("a").stale == set()


async def test_a_crash_of_the_old_version_does_not_disturb_a_hand_over(world: World) -> None:
    registry = await world.started("a")
    await load(registry, "a")
    world.put("a", 2)
    loading = await world.loading("a")
    await crash(world, "a")
    world.inference.load_gate.open()
    await loading
    await turns(50)
    assert registry.serving("a", None).manifest.version == 2
    assert world.inference.held == {"a": [2]}


async def test_the_old_version_is_reloaded_if_it_crashed_during_a_failed_hand_over(world: World) -> None:
    registry = await world.started("a")
    await load(registry, "a")
    world.put("a", 2)
    loading = await world.loading("a")
    await crash(world, "a")
    world.inference.load_errors["a"] = ServiceError(Reason.LOAD_FAILED, "no")
    world.inference.load_gate.open()
    assert await reason_of(loading) == Reason.LOAD_FAILED
    world.inference.load_errors.clear()
    await until(lambda: bool(registry.model("a").loaded))
    assert registry.serving("a", None).manifest.version == 1


async def test_a_crashed_model_that_triton_then_refuses_is_tried_again_ever_more_rarely(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    delays: list[float] = []
    registry = await world.started("a", "b")
    note_delays(registry, delays, monkeypatch)
    await load(registry, "a")
    world.inference.load_errors["a"] = ServiceError(Reason.LOAD_FAILED, "no")
    await crash(world, "a")
    await until(lambda: len(delays) > 5)
    assert delays[:6] == [0, 1, 2, 4, 8, 16]
    await until(lambda: world.state("a") == VersionState.FAILED)
    assert world.reason("a") == Reason.MODEL_LOADING
    world.inference.load_errors.clear()
    await until(lambda: bool(registry.model("a").loaded))
    assert await world.predict("a") == 4
    assert await world.wanted() == {"a": 1}


@pytest.mark.parametrize("error", [ServiceError(Reason.TRITON_UNAVAILABLE, "a blip"), RuntimeError("a bug")])
async def test_a_reload_that_fails_otherwise_is_tried_again_too(
    world: World, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    registry = await world.started("a")
    note_delays(registry, [], monkeypatch)
    await load(registry, "a")
    world.inference.load_errors["a"] = error
    await crash(world, "a")
    await until(lambda: world.inference.calls.count(("serve", "a 1")) > 3)
    world.inference.load_errors.clear()
    await until(lambda: bool(registry.model("a").loaded))


async def test_a_crashed_model_whose_files_are_damaged_is_failed_for_good(world: World) -> None:
    registry = await world.started("a")
    await load(registry, "a")
    world.artifacts.verify_error = ServiceError(Reason.ARTIFACT_DAMAGED, "model.onnx")
    await crash(world, "a")
    await until(lambda: world.state("a") == VersionState.FAILED)
    assert world.reason("a") == Reason.MODEL_NOT_LOADED
    await until(lambda: not registry._reloads)


async def test_a_failed_load_by_a_caller_does_not_end_the_reloads(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = await crashed_twice(world, monkeypatch)
    world.inference.load_errors["a"] = ServiceError(Reason.LOAD_FAILED, "no")
    assert await reason_of(load(registry, "a")) == Reason.LOAD_FAILED
    assert world.reason("a") == Reason.MODEL_LOADING
    assert registry._reloads
    await registry.close()


async def test_a_model_that_triton_refuses_at_its_return_is_tried_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = await world.started("a", "b")
    note_delays(registry, [], monkeypatch)
    await load(registry, "a")
    await load(registry, "b")
    world.inference.load_errors["a"] = ServiceError(Reason.LOAD_FAILED, "its process was killed")
    await world.dies()
    await world.comes_back()
    assert await world.predict("b") == 4
    world.inference.load_errors.clear()
    await until(lambda: bool(registry.model("a").loaded))


# -- what fails half way is taken back -------------------------------------------------------------------------------


async def test_a_load_that_the_journal_cannot_note_is_taken_back(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = await world.started("a")
    monkeypatch.setattr(world.journal, "want_loaded", fails)
    with pytest.raises(OSError, match="full"):
        await load(registry, "a")
    assert world.inference.held == {}
    assert world.reason("a") == Reason.MODEL_NOT_LOADED
    monkeypatch.undo()
    await load(registry, "a")
    assert await world.predict("a") == 4


async def test_a_hand_over_that_the_journal_cannot_note_leaves_the_old_version_alone(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = await world.started("a")
    await load(registry, "a")
    world.put("a", 2)
    monkeypatch.setattr(world.journal, "want_loaded", fails)
    with pytest.raises(OSError, match="full"):
        await load(registry, "a")
    assert world.inference.held == {"a": [1]}
    assert registry.serving("a", None).manifest.version == 1
    assert ("unload", "a") not in world.inference.calls


@pytest.mark.parametrize("operation", ["load", "unload", "remove"])
async def test_what_cannot_be_taken_back_at_once_is_by_the_next_operation(
    world: World, monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    registry = await world.started("a")
    with monkeypatch.context() as patch:
        patch.setattr(world.journal, "want_loaded", fails)
        world.inference.unload_errors["a"] = ServiceError(Reason.INTERNAL, "no")
        with pytest.raises(OSError, match="full"):
            await load(registry, "a")
    assert world.inference.held == {"a": [1]}
    world.inference.unload_errors.clear()
    if operation == "load":
        await load(registry, "a")
        assert world.inference.calls[-2:] == [("unload", "a"), ("serve", "a 1")]
    elif operation == "unload":
        await registry.unload("a")
        assert world.inference.held == {}
    else:
        await registry.remove("a", None, False)
        assert world.inference.held == {}


async def test_a_load_whose_end_is_unknown_is_unloaded_before_the_next(world: World) -> None:
    registry = await world.started("a")
    world.inference.load_errors["a"] = ServiceError(Reason.TRITON_UNAVAILABLE, "the connection broke")
    assert await reason_of(load(registry, "a")) == Reason.TRITON_UNAVAILABLE
    world.inference.load_errors.clear()
    await load(registry, "a")
    assert world.inference.calls == [("serve", "a 1"), ("unload", "a"), ("serve", "a 1")]


async def test_an_unload_that_triton_refuses_can_be_repeated(world: World) -> None:
    registry = await world.started("a")
    await load(registry, "a")
    world.inference.unload_errors["a"] = ServiceError(Reason.INTERNAL, "no")
    assert await reason_of(registry.unload("a")) == Reason.INTERNAL
    assert world.reason("a") == Reason.MODEL_NOT_LOADED
    world.inference.unload_errors.clear()
    await registry.unload("a")
    assert world.inference.held == {}
    assert world.state("a") == VersionState.STORED


async def test_a_model_that_triton_does_not_let_go_keeps_no_other_from_coming_back(world: World) -> None:
    registry = await world.started("a", "b")
    await load(registry, "a")
    await world.dies()
    await world.inference.start()
    world.inference.held = {"b": [1]}
    world.inference.unload_errors["b"] = ServiceError(Reason.INTERNAL, "no")
    await registry.triton_is_up()
    assert await world.predict("a") == 4


@pytest.mark.parametrize("back", [False, True])
async def test_a_load_after_which_triton_dies_at_once_comes_back_with_it(
    world: World, monkeypatch: pytest.MonkeyPatch, back: bool
) -> None:
    """Triton dies, and perhaps comes back, while the load is being noted: it is acknowledged, so it holds."""
    registry = await world.started("a")
    note, gate = world.journal.want_loaded, Gate()
    gate.shut()

    async def note_late(wanted: WantedModel) -> None:
        await gate.passed()
        await note(wanted)

    monkeypatch.setattr(world.journal, "want_loaded", note_late)
    loading = asyncio.create_task(load(registry, "a"))
    await until(lambda: gate.waiting == 1)
    await world.dies()
    if back:
        await world.comes_back()
    gate.open()
    await loading
    if not back:
        assert world.reason("a") == Reason.TRITON_UNAVAILABLE
        await world.comes_back()
    await until(lambda: bool(registry.model("a").loaded))
    assert await world.predict("a") == 4


async def fails(wanted: WantedModel) -> None:
    raise OSError("the disk is full")


# -- Triton hangs ----------------------------------------------------------------------------------------------------


async def test_a_first_load_that_hangs_is_not_repeated_and_others_come_back(world: World) -> None:
    registry = await world.started("a", "b")
    await load(registry, "b")
    world.inference.load_errors["a"] = LoadHung("a")
    assert await reason_of(load(registry, "a")) == Reason.TRITON_UNAVAILABLE
    await world.dies()
    await world.comes_back()
    assert world.inference.held == {"b": [1]}
    world.inference.load_errors.clear()
    await load(registry, "a")
    assert await world.predict("a") == 4


async def test_a_model_that_hangs_triton_again_and_again_is_left_out(world: World) -> None:
    registry = await world.started("a", "b")
    await load(registry, "a")
    await load(registry, "b")
    world.inference.load_errors["a"] = LoadHung("a")
    for _ in range(MAX_HANGS):
        await world.dies()
        await world.comes_back()
        assert world.reason("a") == Reason.MODEL_LOADING
    await world.dies()
    await world.comes_back()
    assert world.inference.calls.count(("serve", "a 1")) == 1 + MAX_HANGS
    assert await world.predict("b") == 4
    assert world.reason("a") == Reason.MODEL_NOT_LOADED
    world.inference.load_errors.clear()
    await load(registry, "a")
    assert await world.predict("a") == 4


# -- turns -----------------------------------------------------------------------------------------------------------


async def test_two_operations_begun_in_one_moment_do_not_both_go_on(world: World) -> None:
    registry = await world.started("a")
    calls = (registry.remove("a", None, False), load(registry, "a"), registry.unload("a"))
    removed, *refused = await asyncio.gather(*calls, return_exceptions=True)
    assert removed == [1]
    assert [error.reason for error in refused if isinstance(error, ServiceError)] == [Reason.OPERATION_IN_PROGRESS] * 2


async def test_no_operation_slips_in_before_the_one_that_waits(world: World) -> None:
    """A job's load that waits for an unload has its turn the moment the unload is over."""
    registry = await world.started("a")
    await load(registry, "a")
    predicting = await world.predicting("a")
    unloading = asyncio.create_task(registry.unload("a"))
    await turns()
    waiting = asyncio.create_task(registry.load_when_free("a", 1, "job"))
    await turns()
    refused: list[Reason] = []

    def try_to_slip_in(_: object) -> None:
        with pytest.raises(ServiceError) as error:
            registry._begin(registry.model("a"), "remove", turns)
        refused.append(error.value.reason)

    unloading.add_done_callback(try_to_slip_in)
    world.inference.infer_gate.open()
    await asyncio.gather(predicting, unloading, waiting)
    assert refused == [Reason.OPERATION_IN_PROGRESS]
    assert await world.predict("a") == 4


async def test_a_load_that_waited_for_a_removal_finds_no_model(world: World) -> None:
    registry = await world.started("a")
    removing = asyncio.create_task(registry.remove("a", None, False))
    await asyncio.sleep(0)
    assert await reason_of(registry.load_when_free("a", 1, "job")) == Reason.MODEL_NOT_FOUND
    await removing
    assert world.inference.held == {}
    assert registry._models == {}


async def test_remove_all_frees_every_name_when_one_cannot_be_removed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = await world.started("a", "b", "c")
    remove, go_on = world.artifacts.remove, threading.Event()

    def fail_for_a(model: str, version: int | None) -> None:
        if model == "a":
            raise ServiceError(Reason.DISK_FULL, "full")
        assert go_on.wait(5)
        remove(model, version)

    monkeypatch.setattr(world.artifacts, "remove", fail_for_a)
    removing = asyncio.create_task(registry.remove_all(False))
    await until(lambda: [entry.turn.taken for entry in registry.models()] == [True] * 3)
    await until(lambda: [entry.turn.taken for entry in registry.models()] == [False, True, True])
    await turns()
    assert not removing.done(), "the others are still being removed"
    go_on.set()
    assert await reason_of(removing) == Reason.DISK_FULL
    assert [entry.name for entry in registry.models()] == ["a"]
    monkeypatch.undo()
    assert await registry.remove_all(False) == ["a"]


async def test_remove_all_goes_on_when_its_caller_goes(world: World) -> None:
    registry = await world.started("a", "b")
    removing = asyncio.create_task(registry.remove_all(False))
    await asyncio.sleep(0)
    removing.cancel()
    await until(lambda: not registry._models)


async def test_an_unload_during_the_return_of_triton_holds(world: World) -> None:
    registry = await world.started("a")
    await load(registry, "a")
    await world.dies()
    await world.inference.start()
    unloading = asyncio.create_task(registry.unload("a"))
    await asyncio.sleep(0)  # it has its turn
    await registry.triton_is_up()
    await unloading
    await turns(50)
    assert world.inference.held == {}
    assert await world.wanted() == {}


async def test_calls_on_a_version_that_is_leaving_fail_when_triton_dies(world: World) -> None:
    registry = await world.started("a")
    await load(registry, "a")
    predicting = await world.predicting("a")
    unloading = asyncio.create_task(registry.unload("a"))
    await turns()
    await registry.triton_is_down()  # the connection of a Triton that hangs is still there
    async with asyncio.timeout(2):
        assert await reason_of(predicting) == Reason.TRITON_UNAVAILABLE
        await unloading
