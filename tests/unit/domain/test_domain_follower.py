"""What a further process makes of the states that it is told."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from service.domain.aliases import Aliases
from service.domain.entities import Capacity, LoadOrder, Manifest
from service.domain.errors import Reason, ServiceError
from service.domain.follower import Follower, NotHere
from service.domain.ports import ModelCrashed
from service.domain.registry import Registry
from service.domain.shared_state import SharedModel, SharedState, Work
from tests.ports.fakes import InMemoryJournal
from tests.unit.domain.fakes import FakeArtifacts, FakeInference, SetClock, manifest, rows_of, until

TRITON = "127.0.0.1:8001"


class World:
    """A follower of states that a test makes."""

    def __init__(self) -> None:
        self.inference = FakeInference()
        self.connected: list[str] = []
        self.crashed: list[int] = []
        self.unreadable: set[int] = set()
        self.own_config = ""
        self.follower = Follower(self._manifest, self._connect, 1000, self.crashed.append)

    def _manifest(self, model: str, version: int) -> Manifest:
        if version in self.unreadable:
            raise ServiceError(Reason.ARTIFACT_DAMAGED, "gone")
        return replace(manifest(model, version), own_config=self.own_config)

    def _connect(self, address: str) -> FakeInference:
        self.connected.append(address)
        return self.inference

    async def told(
        self,
        versions: dict[int, int],
        serving: int = 1,
        leaving: tuple[int, ...] = (),
        triton: str = TRITON,
        loaded_with: str = "",
        **aliases: int,
    ) -> None:
        """Tells of a model `iris` with these versions."""
        for version in versions:
            self.inference.held.setdefault("iris", []).append(version)
        loaded = replace(manifest("iris"), own_config=loaded_with)
        configs = dict.fromkeys(versions, loaded.own_config_digest) if loaded.of_operator else {}
        model = SharedModel("iris", serving, Capacity(), aliases, versions, configs)
        await self.follower.follow(SharedState(triton, [model] if versions else [], leaving))

    def version(self, choice: int | str | None = None) -> int:
        """Returns the version that answers."""
        return self.follower.serving("iris", choice).manifest.version


@pytest.fixture
def world() -> World:
    return World()


async def test_what_it_was_not_told_of_is_not_here(world: World) -> None:
    with pytest.raises(NotHere):
        world.version()
    await world.told({1: 10}, champion=2)
    for choice in (2, "champion", "nobody"):
        with pytest.raises(NotHere):
            world.version(choice)


async def test_versions_and_aliases_are_as_it_was_told_last(world: World) -> None:
    await world.told({1: 10, 2: 11}, champion=1)
    assert [world.version(), world.version("champion"), world.version(2)] == [1, 1, 2]
    await world.told({1: 10, 2: 11}, serving=2, champion=2)
    assert [world.version(), world.version("champion"), world.version(1)] == [2, 2, 1]


async def test_a_version_that_stays_keeps_its_batcher_and_one_loaded_again_has_another(world: World) -> None:
    await world.told({1: 10})
    first = world.follower.serving("iris", None)
    await world.told({1: 10, 2: 11})
    assert world.follower.serving("iris", None) is first
    await world.told({1: 12})
    assert world.follower.serving("iris", None) is not first


async def test_an_operators_version_is_left_to_the_primary_if_its_file_is_not_what_was_loaded(world: World) -> None:
    world.own_config = "max_batch_size: 16"
    await world.told({1: 10}, loaded_with="max_batch_size: 8")
    with pytest.raises(NotHere):
        world.version()
    await world.told({1: 11}, loaded_with="max_batch_size: 16")
    assert world.version() == 1


async def test_it_opens_versions_while_all_threads_work_for_callers(world: World) -> None:
    done, begun = threading.Event(), threading.Semaphore(0)

    def work() -> None:
        begun.release()
        done.wait()

    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(2))
    callers = [asyncio.ensure_future(asyncio.to_thread(work)) for _ in range(3)]
    for _ in range(2):
        await until(lambda: begun.acquire(blocking=False))
    try:
        async with asyncio.timeout(5):
            await world.told({1: 10})
    finally:
        done.set()
        await asyncio.gather(*callers)
    assert world.version() == 1


async def test_a_version_that_leaves_answers_its_last_calls_and_no_new_one(world: World) -> None:
    await world.told({1: 10})
    world.inference.infer_gate.shut()
    loaded = world.follower.serving("iris", None)
    row = rows_of(1)
    call = asyncio.create_task(loaded.batcher.predict(row, 1))
    await until(lambda: world.inference.infer_gate.waiting == 1)
    await world.told({}, leaving=(10,))
    with pytest.raises(NotHere):
        world.version()
    draining = asyncio.create_task(world.follower.drain([10]))
    await asyncio.sleep(0)
    assert not draining.done()
    world.inference.infer_gate.open()
    await asyncio.gather(draining, call)


async def test_a_version_that_is_gone_at_once_fails_its_calls(world: World) -> None:
    await world.told({1: 10})
    loaded = world.follower.serving("iris", None)
    await world.told({})
    with pytest.raises(ServiceError):
        await loaded.batcher.predict(rows_of(1), 1)


async def test_another_triton_has_new_streams(world: World) -> None:
    await world.told({1: 10})
    await world.told({}, triton="")
    await world.told({1: 11}, triton="127.0.0.1:8002")
    assert world.connected == [TRITON, "127.0.0.1:8002"]
    assert world.version() == 1


async def test_a_crash_is_told_and_the_version_is_no_more_here(world: World) -> None:
    await world.told({1: 10})
    world.inference.infer_errors["iris"] = ModelCrashed("iris")
    with pytest.raises(ModelCrashed):
        await world.follower.serving("iris", None).batcher.predict(rows_of(1), 1)
    assert world.crashed == [10]
    with pytest.raises(NotHere):
        world.version()


async def test_a_version_whose_manifest_cannot_be_read_is_not_here(world: World) -> None:
    world.unreadable.add(2)
    await world.told({1: 10, 2: 11})
    assert world.version() == 1
    with pytest.raises(NotHere):
        world.version(2)


class Told:
    """Implements the port Followers: notes what was told, and what Triton held then."""

    def __init__(self, inference: FakeInference) -> None:
        self.registry: Registry | None = None
        self.states: list[SharedState] = []
        self.drained_while_held: list[tuple[int, ...]] = []
        self._inference = inference

    def tell(self) -> None:
        assert self.registry is not None
        self.states.append(self.registry.shared_state())

    async def told(self) -> None:
        self.tell()

    async def drained(self, serials: Sequence[int]) -> None:
        self.drained_while_held.append(tuple(self._inference.held.get("iris", ())))

    async def work(self) -> Mapping[int, Sequence[Work]]:
        return {}


async def registry_with(followers: Told, inference: FakeInference) -> Registry:
    """A registry with two versions of `iris` on disk."""
    artifacts = FakeArtifacts()
    followers.registry = registry = Registry(artifacts, InMemoryJournal(), inference, SetClock(), 10, 1000, followers)
    for version in (1, 2):
        registry.add(artifacts.put("iris", version))
    await registry.triton_is_up()
    return registry


async def test_loads_and_aliases_are_answered_after_all_were_told() -> None:
    inference = FakeInference()
    followers = Told(inference)
    registry = await registry_with(followers, inference)
    aliases = Aliases(registry, SetClock())
    await registry.load("iris", 1, LoadOrder("me"))
    assert followers.states[-1].models[0].versions.keys() == {1}
    await registry.load("iris", 2, LoadOrder("me", alongside=True))
    await aliases.set("iris", "champion", 1, "me")
    await aliases.set("iris", "champion", 2, "me")
    assert followers.states[-1].models[0].aliases == {"champion": 2}
    await aliases.roll_back("iris", "champion", "me")
    assert followers.states[-1].models[0].aliases == {"champion": 1}
    await aliases.delete("iris", "champion")
    assert followers.states[-1].models[0].aliases == {}


async def test_triton_holds_a_version_until_all_have_answered_their_last_calls_of_it() -> None:
    inference = FakeInference()
    followers = Told(inference)
    registry = await registry_with(followers, inference)
    await registry.load("iris", 1, LoadOrder("me"))
    [serial] = followers.states[-1].models[0].versions.values()
    await registry.unload("iris")
    assert followers.states[-1] == SharedState(inference.address, [], [serial])
    assert followers.drained_while_held == [(1,)]
    assert inference.held == {}


async def test_tritons_death_and_a_crash_elsewhere_are_told_at_once() -> None:
    inference = FakeInference()
    followers = Told(inference)
    registry = await registry_with(followers, inference)
    await registry.load("iris", 1, LoadOrder("me"))
    [serial] = followers.states[-1].models[0].versions.values()
    registry.has_crashed_elsewhere(serial)
    assert followers.states[-1].models == []
    await until(lambda: bool(followers.states[-1].models))
    assert followers.states[-1].models[0].versions[1] != serial
    await registry.triton_is_down()
    assert followers.states[-1] == SharedState("", [], [])
