"""The Journal: what holds for the database and for its stand-in, and what only a database can promise."""

from __future__ import annotations

import asyncio
import math
import os
import socket
import sqlite3
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.command import upgrade
from alembic.migration import MigrationContext
from sqlalchemy import create_engine, make_url, text

from service.adapters.journal import DatabaseJournal, DatabaseNotUsable, metadata
from service.domain.entities import Alias, Capacity, Job, JobError, JobState, Task, TrainingStep, WantedModel
from service.domain.errors import Reason, ServiceError
from service.domain.ports import Journal
from tests.ports.fakes import InMemoryJournal

# Such as postgresql+psycopg://postgres@localhost/postgres; each test makes its own database there.
POSTGRESQL = os.environ.get("FITSERVE_TEST_POSTGRESQL_URL")
needs_postgresql = pytest.mark.skipif(not POSTGRESQL, reason="FITSERVE_TEST_POSTGRESQL_URL is not set")
DATABASES = ["sqlite", pytest.param("postgresql", marks=needs_postgresql)]

NOON = datetime(2026, 11, 21, 12, 0, 0, 123456, tzinfo=UTC)
IRIS = WantedModel("iris", 2, {1: "ada", 2: "bob"}, Capacity(2))
CHAMPION = Alias("iris", "champion", 2, 1, NOON)


@pytest.fixture(params=DATABASES)
def url(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of an empty database."""
    with empty_database(request.param, tmp_path) as url:
        yield url


@pytest.fixture(params=["memory", *DATABASES])
async def journal(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Journal]:
    if request.param == "memory":
        yield InMemoryJournal()
        return
    with empty_database(request.param, tmp_path) as url:
        async with opened(url) as journal:
            yield journal


@contextmanager
def empty_database(kind: str, tmp_path: Path) -> Iterator[str]:
    if kind == "sqlite":
        yield f"sqlite:///{tmp_path / 'fitserve.db'}"
        return
    name = f"test_{uuid.uuid4().hex}"
    server = create_engine(POSTGRESQL or "", isolation_level="AUTOCOMMIT")
    with server.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
        yield make_url(POSTGRESQL or "").set(database=name).render_as_string(hide_password=False)
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    server.dispose()


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[DatabaseJournal]:
    journal = DatabaseJournal(url)
    try:
        await journal.open()
        yield journal
    finally:
        await journal.close()


@asynccontextmanager
async def gone(url: str, journal: DatabaseJournal) -> AsyncIterator[None]:
    """Lets the database answer no call within the block."""
    if url.startswith("sqlite"):
        await journal._run(lambda connection: connection.exec_driver_sql("PRAGMA busy_timeout = 1"))
        with closing(sqlite3.connect(make_url(url).database or "", isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            yield
        return
    name = make_url(url).database
    server = create_engine(POSTGRESQL or "", isolation_level="AUTOCOMMIT")
    with server.connect() as connection:
        connection.execute(text(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false"))
        connection.execute(text(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"))
        yield
        connection.execute(text(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true"))
    server.dispose()


# Any: the fields of a job have many types.
def job(number: int, **changes: Any) -> Job:
    first = Job(
        id=f"job-{number}",
        model="iris",
        version=1,
        algorithm="random_forest",
        task=Task.CLASSIFICATION,
        state=JobState.QUEUED,
        dataset="sha256:00",
        cores=1,
        create_time=NOON + timedelta(seconds=number),
    )
    return replace(first, **changes)


ended_job = job(
    1,
    state=JobState.FAILED,
    request_id="r1",
    request_hash="ab",
    time_limit=2.5,
    progress=0.25,
    step=TrainingStep(3, 100, "round", {"loss": 0.5}),
    metrics={"accuracy": 0.97, "größe": 1.0},
    error=JobError("TRAINING_FAILED", "it diverged", {"model": "iris"}),
    load_error=JobError("LOAD_FAILED", "no room"),
    train_rows=120,
    validation_rows=30,
    peak_memory_bytes=1 << 40,
    cpu_seconds=1.75,
    start_time=NOON + timedelta(microseconds=1),
    end_time=NOON + timedelta(days=1),
)


class TestJournal:
    """What every Journal does."""

    async def test_a_job_comes_back_as_it_was_stored(self, journal: Journal) -> None:
        await journal.add_job(ended_job)
        await journal.add_job(job(2))
        assert await journal.job("job-1") == ended_job
        assert await journal.job("job-2") == job(2)

    async def test_an_unknown_job_is_none(self, journal: Journal) -> None:
        assert await journal.job("job-1") is None

    async def test_times_come_back_in_utc(self, journal: Journal) -> None:
        abroad = NOON.astimezone(timezone(timedelta(hours=5, minutes=30)))
        await journal.add_job(job(1, create_time=abroad))
        found = await journal.job("job-1")
        assert found is not None
        assert found.create_time == NOON

    async def test_a_metric_may_be_no_number(self, journal: Journal) -> None:
        await journal.add_job(job(1, metrics={"loss": math.nan, "max": math.inf}))
        found = await journal.job("job-1")
        assert found is not None
        assert math.isnan(found.metrics["loss"])
        assert found.metrics["max"] == math.inf

    async def test_an_update_replaces_the_whole_job(self, journal: Journal) -> None:
        await journal.add_job(ended_job)
        changed = job(1, state=JobState.SUCCEEDED, request_id="r1", progress=1.0)
        await journal.update_job(changed)
        assert await journal.job("job-1") == changed

    async def test_an_update_of_an_unknown_job_makes_none(self, journal: Journal) -> None:
        await journal.update_job(job(1))
        assert await journal.job("job-1") is None

    async def test_a_request_id_finds_its_job(self, journal: Journal) -> None:
        await journal.add_job(job(1, request_id="r1"))
        await journal.add_job(job(2))
        assert await journal.job_of_request("r1") == job(1, request_id="r1")
        assert await journal.job_of_request("r2") is None

    async def test_no_request_id_finds_no_job(self, journal: Journal) -> None:
        await journal.add_job(job(1))
        await journal.add_job(job(2))
        assert await journal.job_of_request("") is None

    async def test_a_request_id_makes_one_job_only(self, journal: Journal) -> None:
        await journal.add_job(job(1, request_id="r1"))
        with pytest.raises(ServiceError) as refused:
            await journal.add_job(job(2, request_id="r1"))
        assert refused.value.reason is Reason.OPERATION_IN_PROGRESS
        assert await journal.job("job-2") is None

    async def test_jobs_come_latest_first_and_page_by_page(self, journal: Journal) -> None:
        same_time = [job(number, create_time=NOON) for number in (1, 2, 3)]
        for each in [*same_time, job(4), job(5)]:
            await journal.add_job(each)
        seen: list[str] = []
        before = None
        while page := await journal.jobs(None, (), 2, before):
            seen += [each.id for each in page]
            before = (page[-1].create_time, page[-1].id)
        assert seen == ["job-5", "job-4", "job-3", "job-2", "job-1"]

    async def test_jobs_are_found_by_model_and_state(self, journal: Journal) -> None:
        await journal.add_job(job(1))
        await journal.add_job(job(2, model="wine"))
        await journal.add_job(job(3, state=JobState.FAILED))
        await journal.add_job(job(4, state=JobState.SUCCEEDED))

        async def found(model: str | None, *states: JobState) -> list[str]:
            return [each.id for each in await journal.jobs(model, states, 10, None)]

        assert await found("iris") == ["job-4", "job-3", "job-1"]
        assert await found("iris", JobState.QUEUED, JobState.FAILED) == ["job-3", "job-1"]
        assert await found(None, JobState.QUEUED) == ["job-2", "job-1"]
        assert await found("rose") == []

    async def test_unfinished_jobs_are_those_queued_or_running(self, journal: Journal) -> None:
        for number, state in enumerate(JobState):
            await journal.add_job(job(number, state=state))
        states = {each.state for each in await journal.unfinished_jobs()}
        assert states == {JobState.QUEUED, JobState.RUNNING}

    async def test_what_is_wanted_of_a_model_takes_the_place_of_what_was(self, journal: Journal) -> None:
        wine = WantedModel("wine", 1, {1: "ada"})
        iris = WantedModel("iris", 2, {2: "bob", 10: "ada"}, Capacity(2, 64, 1000))
        await journal.want_loaded(wine)
        await journal.want_loaded(WantedModel("iris", 1, {1: "ada", 2: "bob"}))
        await journal.want_loaded(iris)
        assert await journal.wanted_models() == [iris, wine]

    async def test_an_unwanted_model_is_gone(self, journal: Journal) -> None:
        await journal.want_loaded(WantedModel("iris", 1, {1: "ada", 2: "bob"}))
        await journal.want_unloaded("iris")
        await journal.want_unloaded("wine")
        assert await journal.wanted_models() == []

    async def test_an_alias_is_moved_and_deleted(self, journal: Journal) -> None:
        champion, other = Alias("iris", "champion", 1, None, NOON), Alias("wine", "champion", 3, 2, NOON)
        for alias in (other, champion):
            await journal.set_alias(alias)
        assert await journal.aliases() == [champion, other]
        moved = Alias("iris", "champion", 2, 1, NOON + timedelta(days=1))
        await journal.set_alias(moved)
        assert await journal.aliases() == [moved, other]
        await journal.delete_alias("wine", "champion")
        await journal.delete_alias("wine", "challenger")
        assert await journal.aliases() == [moved]

    async def test_many_calls_at_once_are_all_answered(self, journal: Journal) -> None:
        await asyncio.gather(*(journal.add_job(job(number)) for number in range(50)))
        assert len(await journal.jobs(None, (), 100, None)) == 50


class TestDatabaseJournal:
    """What only a database can promise."""

    async def test_everything_is_there_after_reopening(self, url: str) -> None:
        async with opened(url) as journal:
            await journal.add_job(ended_job)
            await journal.want_loaded(IRIS)
            await journal.set_alias(CHAMPION)
        async with opened(url) as journal:
            assert await journal.job("job-1") == ended_job
            assert await journal.wanted_models() == [IRIS]
            assert await journal.aliases() == [CHAMPION]

    async def test_a_load_that_an_earlier_release_noted_is_wanted_still(self, url: str) -> None:
        journal = DatabaseJournal(url)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("alembic.command.upgrade", lambda config, _: upgrade(config, "0001"))
            await journal.open()
        await journal.close()
        engine = create_engine(url)
        with engine.begin() as connection:
            connection.execute(text("INSERT INTO wanted_loads (model, version, loaded_by) VALUES ('iris', 3, 'ada')"))
        engine.dispose()
        async with opened(url) as journal:
            assert await journal.wanted_models() == [WantedModel("iris", 3, {3: "ada"})]
            await journal.want_loaded(IRIS)
            assert await journal.wanted_models() == [IRIS]

    async def test_a_database_that_went_away_is_unavailable(self, url: str) -> None:
        async with opened(url) as journal, gone(url, journal):
            for call in (
                journal.job("1"),
                journal.add_job(job(1)),
                journal.wanted_models(),
                journal.want_unloaded("iris"),
            ):
                with pytest.raises(ServiceError) as refused:
                    await call
                assert refused.value.reason is Reason.DATABASE_UNAVAILABLE
                assert "SELECT" not in refused.value.message

    async def test_migrations_and_tables_agree(self, url: str) -> None:
        async with opened(url):
            pass
        engine = create_engine(url)
        with engine.connect() as connection:
            context = MigrationContext.configure(connection, opts={"compare_server_default": True})
            assert compare_metadata(context, metadata) == []
        engine.dispose()

    async def test_services_that_open_an_empty_database_together_all_succeed(self, url: str) -> None:
        async with opened(url) as one, opened(url) as another:
            await one.add_job(job(1))
            assert await another.job("job-1") == job(1)
        journals = [DatabaseJournal(url) for _ in range(3)]
        await asyncio.gather(*(journal.open() for journal in journals))
        await asyncio.gather(*(journal.close() for journal in journals))

    async def test_a_database_of_a_newer_release_is_refused(self, url: str) -> None:
        async with opened(url):
            pass
        engine = create_engine(url)
        with engine.begin() as connection:
            connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        engine.dispose()
        with pytest.raises(DatabaseNotUsable, match=r"a newer FitServe .*revision is 9999"):
            async with opened(url):
                pass

    async def test_an_interrupted_migration_leaves_an_empty_database(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        url = f"sqlite:///{tmp_path / 'fitserve.db'}"
        with monkeypatch.context() as patch:
            patch.setattr("alembic.operations.Operations.create_index", _fail)
            with pytest.raises(ZeroDivisionError):
                async with opened(url):
                    pass
        async with opened(url) as journal:
            assert await journal.unfinished_jobs() == []


def _fail(*_: object, **__: object) -> None:
    raise ZeroDivisionError


class TestSqliteJournal:
    """How SQLite is used."""

    async def test_a_commit_survives_a_power_cut(self, tmp_path: Path) -> None:
        async with opened(f"sqlite:///{tmp_path / 'fitserve.db'}") as journal:
            settings = await journal._run(
                lambda connection: [
                    connection.exec_driver_sql(f"PRAGMA {name}").scalar()
                    for name in ("journal_mode", "synchronous", "foreign_keys")
                ]
            )
        assert settings == ["wal", 2, 1]

    async def test_what_was_acknowledged_survives_the_kill_of_the_process(self, tmp_path: Path) -> None:
        url = f"sqlite:///{tmp_path / 'fitserve.db'}"
        script = (
            "import asyncio, os, signal\n"
            "from service.adapters.journal import DatabaseJournal\n"
            "from service.domain.entities import WantedModel\n"
            "async def main():\n"
            f"    journal = DatabaseJournal({url!r})\n"
            "    await journal.open()\n"
            "    await journal.want_loaded(WantedModel('iris', 1, {1: 'ada'}))\n"
            "    os.kill(os.getpid(), signal.SIGKILL)\n"
            "asyncio.run(main())\n"
        )
        process = await asyncio.to_thread(subprocess.run, [sys.executable, "-c", script], check=False)
        assert process.returncode == -9
        async with opened(url) as journal:
            assert await journal.wanted_models() == [WantedModel("iris", 1, {1: "ada"})]

    async def test_a_full_disk_is_said(self, tmp_path: Path) -> None:
        async with opened(f"sqlite:///{tmp_path / 'fitserve.db'}") as journal:
            await journal._run(lambda connection: connection.exec_driver_sql("PRAGMA max_page_count = 1"))
            with pytest.raises(ServiceError) as refused:
                await journal.add_job(job(1, metrics={"x" * 100_000: 1.0}))
            assert refused.value.reason is Reason.DISK_FULL
            assert await journal.job("job-1") is None

    async def test_it_waits_for_another_process_that_writes(self, tmp_path: Path) -> None:
        file = tmp_path / "fitserve.db"
        async with opened(f"sqlite:///{file}") as journal:
            other = sqlite3.connect(file, isolation_level=None)
            other.execute("BEGIN IMMEDIATE")
            waiting = asyncio.create_task(journal.add_job(job(1)))
            done, _ = await asyncio.wait([waiting], timeout=0.1)
            assert not done
            other.execute("COMMIT")
            other.close()
            await waiting
            assert await journal.job("job-1") == job(1)

    async def test_a_missing_directory_is_said(self, tmp_path: Path) -> None:
        with pytest.raises(DatabaseNotUsable, match="its directory exists"):
            async with opened(f"sqlite:///{tmp_path / 'missing' / 'fitserve.db'}"):
                pass

    async def test_an_up_to_date_database_is_opened_without_alembic(self, tmp_path: Path) -> None:
        url = f"sqlite:///{tmp_path / 'fitserve.db'}"
        async with opened(url):
            pass
        script = (
            "import asyncio, sys\n"
            "from service.adapters.journal import DatabaseJournal\n"
            f"asyncio.run(DatabaseJournal({url!r}).open())\n"
            "sys.exit('alembic' in sys.modules)\n"
        )
        process = await asyncio.to_thread(subprocess.run, [sys.executable, "-c", script], check=False)
        assert process.returncode == 0


class TestPostgresqlJournal:
    """How PostgreSQL is used."""

    @needs_postgresql
    async def test_it_goes_on_after_the_server_has_cut_its_connections(self, tmp_path: Path) -> None:
        with empty_database("postgresql", tmp_path) as url:
            async with opened(url) as journal:
                async with gone(url, journal):
                    with pytest.raises(ServiceError):
                        await journal.job("1")
                await journal.add_job(job(1))
                assert await journal.job("job-1") == job(1)

    @needs_postgresql
    async def test_a_server_that_takes_no_writes_is_unavailable(self, tmp_path: Path) -> None:
        with empty_database("postgresql", tmp_path) as url:
            async with opened(url):
                pass
            async with opened(url) as journal:
                await journal._run(
                    lambda connection: connection.exec_driver_sql(
                        f"ALTER DATABASE {make_url(url).database} SET default_transaction_read_only = on"
                    )
                )
                journal._engine.dispose()
                with pytest.raises(ServiceError) as refused:
                    await journal.add_job(job(1))
                assert refused.value.reason is Reason.DATABASE_UNAVAILABLE

    @needs_postgresql
    async def test_a_host_that_does_not_answer_is_given_up_soon(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            url = make_url(POSTGRESQL or "").set(host="127.0.0.1", port=silent.getsockname()[1])
            journal = DatabaseJournal(url.render_as_string(hide_password=False))
            async with asyncio.timeout(9):
                with pytest.raises(DatabaseNotUsable):
                    await journal.open()
            await journal.close()


class TestUrl:
    """URLs that cannot be used."""

    async def test_another_kind_of_database_is_refused(self) -> None:
        with pytest.raises(DatabaseNotUsable, match="neither SQLite nor PostgreSQL"):
            DatabaseJournal("mysql://ada:secret@host/name")

    async def test_a_missing_driver_is_named_with_its_package(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "psycopg", None)
        with pytest.raises(DatabaseNotUsable, match=r"pip install 'psycopg\[binary\]'") as refused:
            DatabaseJournal("postgresql+psycopg://ada:secret@host/name")
        assert "secret" not in str(refused.value)

    async def test_what_is_no_url_is_refused(self) -> None:
        with pytest.raises(DatabaseNotUsable, match=r"sqlite:////var/lib/fitserve\.db"):
            DatabaseJournal("fitserve.db")
