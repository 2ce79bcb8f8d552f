"""kill -9 of each process of the family at random moments: nothing acknowledged is lost, and the next call works."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator

import fitserve
import pytest

from tests.chaos.scene import STEADY, Family, Scene, alive, wait_until

pytestmark = pytest.mark.xdist_group("chaos-kill")

VICTIMS = ("training", "triton", "launcher", "stub", "fork-server")
MOMENTS = ("fit", "load", "unload")


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """A service that survives all kills of this module, and at its end leaves nothing behind."""
    scene = Scene(tmp_path_factory.mktemp("chaos"), TRAINING_CORES="2", GRACE_SECONDS="2")
    yield scene
    scene.stop()


def disturb(scene: Scene, moment: str) -> tuple[list[fitserve.Job], threading.Thread | None]:
    """Begins what the kill is to fall into."""
    if moment == "fit":
        job = scene.fit()
        wait_until(lambda: bool(scene.family.part("training")) or job.refresh().has_ended, "a training process runs")
        return [job], None
    if moment == "unload":
        scene.load()
    thread = threading.Thread(target=scene.load if moment == "load" else scene.unload)
    thread.start()
    return [], thread


def one_round(scene: Scene, victim: str, moment: str, delay: float) -> None:
    """Kills one part after `delay` seconds of an operation under load, and checks what is left."""
    scene.unload()
    jobs: list[fitserve.Job] = []
    with scene.callers():
        jobs, thread = disturb(scene, moment)
        time.sleep(delay)  # the random moment; there is no state to wait for
        scene.family.kill(victim)
        if thread is not None:
            thread.join(90)  # the client gives up before
            assert not thread.is_alive()
        scene.wait_until_it_answers()
    scene.check(jobs)


ROUNDS = [("training", "fit", 0.2), ("triton", "load", 0.1), ("launcher", "fit", 0.3), ("fork-server", "fit", 0.4)]


@pytest.mark.parametrize(("victim", "moment", "delay"), ROUNDS)
def test_a_killed_process_loses_nothing(scene: Scene, victim: str, moment: str, delay: float) -> None:
    one_round(scene, victim, moment, delay)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(30))
def test_processes_killed_at_random_moments_lose_nothing(scene: Scene, seed: int) -> None:
    chance = random.Random(seed)
    one_round(scene, chance.choice(VICTIMS), chance.choice(MOMENTS), chance.uniform(0, 1.5))


def test_a_killed_stub_is_replaced_without_anyone_asking(scene: Scene) -> None:
    before = scene.triton_restarts()
    with scene.callers() as callers:
        assert scene.family.kill("stub")
        answered = callers.answers
        wait_until(lambda: callers.answers > answered + 20, "the model answers again")
    scene.check([])
    assert scene.triton_restarts() == before


@pytest.mark.long
def test_a_stub_that_dies_again_and_again_is_replaced_ever_more_rarely(scene: Scene) -> None:
    seconds = []
    for _ in range(4):
        scene.wait_until_it_answers()
        began = time.monotonic()
        assert scene.family.kill("stub")
        scene.wait_until_it_answers()
        seconds.append(time.monotonic() - began)
    assert seconds[-1] > 2, "the fourth reload waits for some seconds"
    scene.check([])


@pytest.mark.long
def test_a_triton_that_hangs_is_replaced(scene: Scene) -> None:
    before = scene.triton_restarts()
    with scene.callers():
        for process in scene.family.part("triton"):
            process.suspend()
        wait_until(lambda: scene.triton_restarts() > before, "Triton is started again", 60)
        scene.wait_until_it_answers()
    scene.check([])


def test_a_killed_training_frees_its_core_and_says_why(scene: Scene) -> None:
    job = scene.fit(trees=5000)
    wait_until(lambda: scene.family.kill("training"), "a training process runs")
    began = time.monotonic()
    with pytest.raises(fitserve.errors.TrainingFailed) as failed:
        job.wait(10)
    assert failed.value.reason == "TRAINER_DIED"
    assert failed.value.metadata["signal"] == "9"
    assert time.monotonic() - began < 2
    assert scene.free_cores() == 2


def wait_until_gone(family: Family) -> None:
    """Returns when no process of a killed service is left. Raises AssertionError naming those that are, after 5 s."""
    deadline = time.monotonic() + 5
    while left := [process for process in family.seen if alive(process)]:
        if time.monotonic() > deadline:
            raise AssertionError([(process.pid, process.status(), process.cmdline()) for process in left])
        time.sleep(0.02)


def service_round(scene: Scene, moment: Callable[[], list[fitserve.Job]], delay: float) -> None:
    """Kills the service itself; a new one on the same directory continues."""
    with scene.callers():
        jobs = moment()
        time.sleep(delay)  # the random moment
        scene.family.members()
        scene.service.kill()
        family = scene.family
        wait_until_gone(family)
    scene.restart()
    assert family.leftovers() == []
    jobs = [scene.client.job(job.id) for job in jobs]
    assert scene.client.model(STEADY).serving_version == 1
    scene.check(jobs)


def fit_and_load(scene: Scene) -> list[fitserve.Job]:
    scene.unload()
    jobs = [scene.fit(), scene.fit(trees=5)]
    scene.load()
    return jobs


def test_a_killed_service_takes_its_children_along_and_comes_back_with_everything(scene: Scene) -> None:
    service_round(scene, lambda: fit_and_load(scene), random.Random(1).uniform(0, 1))


@pytest.mark.long
def test_a_service_killed_again_and_again_loses_nothing(scene: Scene) -> None:
    chance = random.Random(2)
    for _ in range(8):
        service_round(scene, lambda: fit_and_load(scene), chance.uniform(0, 2))
