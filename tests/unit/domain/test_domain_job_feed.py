"""The news of one job: early, late and slow watchers."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from service.domain.entities import Job, JobNews, JobState, Task, TrainingStep
from service.domain.job_feed import HISTORY, JobFeed
from tests.unit.domain.fakes import START, turns

JOB = Job("1", "iris", 1, "tree", Task.CLASSIFICATION, JobState.RUNNING, "sha256:0", 1, START)


def step(number: int) -> TrainingStep:
    return TrainingStep(number, 5000, "round", {})


async def seen_by(feed: JobFeed) -> list[JobNews]:
    return [news async for news in feed.follow()]


def numbers(news: list[JobNews]) -> list[int]:
    return [step.number for one in news for step in one.steps]


async def test_a_watcher_sees_every_step_and_line_once_and_ends_with_the_final_state() -> None:
    feed = JobFeed(JOB)
    watching = asyncio.create_task(seen_by(feed))
    for number in range(5):
        feed.add_step(JOB, step(number))
        feed.add_line(f"line {number}")
        await turns(number)
    feed.update(replace(JOB, state=JobState.SUCCEEDED))
    news = await watching
    assert numbers(news) == [0, 1, 2, 3, 4]
    assert [line for one in news for line in one.log_lines] == [f"line {n}" for n in range(5)]
    assert news[-1].job.state == JobState.SUCCEEDED


async def test_a_late_watcher_gets_all_there_was_in_one_piece() -> None:
    feed = JobFeed(JOB)
    for number in range(3):
        feed.add_step(JOB, step(number))
    feed.update(replace(JOB, state=JobState.FAILED))
    news = await seen_by(feed)
    assert len(news) == 1
    assert numbers(news) == [0, 1, 2]


async def test_a_slow_watcher_holds_nobody_up_and_misses_no_step() -> None:
    feed = JobFeed(JOB)
    slow = feed.follow()
    first = await anext(slow)
    for number in range(10):
        feed.add_step(JOB, step(number))
    feed.update(replace(JOB, state=JobState.SUCCEEDED))
    rest = [news async for news in slow]
    assert numbers([first, *rest]) == list(range(10))
    assert len(rest) == 1


async def test_only_the_latest_steps_are_kept() -> None:
    feed = JobFeed(JOB)
    for number in range(HISTORY + 10):
        feed.add_step(JOB, step(number))
    feed.update(replace(JOB, state=JobState.SUCCEEDED))
    assert numbers(await seen_by(feed)) == list(range(10, HISTORY + 10))


async def test_watchers_who_leave_disturb_nobody() -> None:
    feed = JobFeed(JOB)
    leaving, staying = asyncio.create_task(seen_by(feed)), asyncio.create_task(seen_by(feed))
    await turns()
    leaving.cancel()
    feed.update(replace(JOB, state=JobState.CANCELLED))
    assert (await staying)[-1].job.state == JobState.CANCELLED
