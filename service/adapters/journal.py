"""Jobs, wanted models and aliases in a database: SQLite, or PostgreSQL that several services may share."""

from __future__ import annotations

import asyncio
import json
import logging
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Connection,
    DateTime,
    Delete,
    Dialect,
    Engine,
    Float,
    Index,
    MetaData,
    RowMapping,
    String,
    Table,
    Text,
    TypeDecorator,
    create_engine,
    delete,
    event,
    func,
    insert,
    inspect,
    make_url,
    select,
    text,
    tuple_,
    update,
)
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, InterfaceError, OperationalError
from sqlalchemy.pool import ConnectionPoolEntry

from service.adapters.durable import disk_full
from service.domain.entities import Alias, Capacity, Job, JobError, JobState, Task, TrainingStep, WantedModel
from service.domain.errors import Reason, ServiceError

_log = logging.getLogger("fitserve.journal")

REVISION = "0002"
"""The newest migration. A database that says so is not touched, and alembic, 11 MB, is not imported."""

_MIGRATIONS = Path(__file__).with_name("migrations")
# Any number will do, as long as all releases use the same.
_MIGRATION_LOCK = 4_071_903
_SQLITE_SETTINGS = ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=10000", "foreign_keys=ON")
_POSTGRESQL_DISK_FULL = "53100"
_POSTGRESQL_READ_ONLY = "25006"  # a standby, after a switch to another server
_LIBPQ_DRIVERS = ("psycopg", "psycopg2")
# A host that does not answer at all is noticed after seconds, not after the minutes that TCP allows. In the URL they
# can be given other values.
_LIBPQ_SETTINGS = {"connect_timeout": "5", "tcp_user_timeout": "10000"}
_UNFINISHED = [state.value for state in JobState if not state.final]

_Result = TypeVar("_Result")


class DatabaseNotUsable(Exception):
    """The database cannot be opened; the message says why and how to mend it."""


class _Utc(TypeDecorator[datetime]):
    """A time with time zone. SQLite stores it without; it is UTC there."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is not None and value.tzinfo is None:
            raise ValueError(f"{value} has no time zone")
        return value and value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return value and (value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC))


class _Json(TypeDecorator[object]):
    """A JSON value as text: PostgreSQL's own type refuses NaN, which a metric may be."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: object | None, dialect: Dialect) -> str | None:
        return None if value is None else json.dumps(value, ensure_ascii=False)

    def process_result_value(self, value: str | None, dialect: Dialect) -> object | None:
        return None if value is None else json.loads(value)


metadata = MetaData(naming_convention={"pk": "pk_%(table_name)s", "uq": "uq_%(table_name)s_%(column_0_name)s"})
"""The tables as they are after the newest migration."""

_jobs = Table(
    "jobs",
    metadata,
    Column("id", String, primary_key=True),
    Column("model", String, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("algorithm", String, nullable=False),
    Column("task", String, nullable=False),
    Column("state", String, nullable=False),
    Column("dataset", String, nullable=False),
    Column("cores", BigInteger, nullable=False),
    Column("create_time", _Utc, nullable=False),
    # NULL for none, so that the constraint holds for the others only.
    Column("request_id", String, unique=True),
    Column("request_hash", String, nullable=False),
    Column("time_limit", Float(53)),
    Column("progress", Float(53), nullable=False),
    Column("step", _Json),
    Column("metrics", _Json, nullable=False),
    Column("error", _Json),
    Column("load_error", _Json),
    Column("train_rows", BigInteger, nullable=False),
    Column("validation_rows", BigInteger, nullable=False),
    Column("peak_memory_bytes", BigInteger, nullable=False),
    Column("cpu_seconds", Float(53), nullable=False),
    Column("start_time", _Utc),
    Column("end_time", _Utc),
    Index("ix_jobs_create_time", "create_time", "id"),
    Index("ix_jobs_state", "state"),
)

_wanted_loads = Table(
    "wanted_loads",
    metadata,
    Column("model", String, primary_key=True),
    Column("version", BigInteger, primary_key=True),
    Column("loaded_by", String, nullable=False),
)

_wanted_models = Table(
    "wanted_models",
    metadata,
    Column("model", String, primary_key=True),
    Column("serving", BigInteger, nullable=False),
    Column("instances", BigInteger, nullable=False),
    Column("max_batch_rows", BigInteger),
    Column("max_queue_rows", BigInteger),
)

_aliases = Table(
    "aliases",
    metadata,
    Column("model", String, primary_key=True),
    Column("name", String, primary_key=True),
    Column("version", BigInteger, nullable=False),
    Column("previous", BigInteger),
    Column("update_time", _Utc, nullable=False),
)


class DatabaseJournal:
    """Jobs, wanted models and aliases in a database. Implements `Journal`.

    One thread does all the work, so the event loop never waits for a disk, and changes keep their order. A method
    that was cancelled may have made its change. All methods raise ServiceError DATABASE_UNAVAILABLE if the database
    does not answer.
    """

    def __init__(self, url: str) -> None:
        """Describes the database; `open` opens it.

        Args:
            url: As SQLAlchemy writes it: `sqlite:////var/lib/fitserve.db`, `postgresql+psycopg://user@host/name`.

        Raises:
            DatabaseNotUsable: The URL is wrong, or the database's driver is not installed.
        """
        self._engine = _engine(url)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="journal")

    async def open(self) -> None:
        """Opens the database and brings its tables up to date.

        Raises:
            DatabaseNotUsable: It cannot be opened, or a newer release made it.
            ServiceError: DISK_FULL.
        """
        try:
            await self._in_thread(_migrate)
        except DBAPIError as error:
            if _is_disk_full(error):
                raise disk_full() from error
            raise DatabaseNotUsable(
                f"the database {self._engine.url} cannot be opened ({error.orig}): see that it runs, or that its "
                "directory exists, and that it may be written"
            ) from error

    async def add_job(self, job: Job) -> None:
        """Stores a new job.

        Raises:
            ServiceError: OPERATION_IN_PROGRESS if another service has just stored a job with this request_id;
                DISK_FULL.
        """
        try:
            await self._run(lambda connection: connection.execute(insert(_jobs).values(_row(job))))
        except IntegrityError as error:
            if await self.job_of_request(job.request_id) is None:
                raise
            raise ServiceError(
                Reason.OPERATION_IN_PROGRESS,
                f"another call with the request_id '{job.request_id}' has just made a job; repeat the call to get it",
                {"model": job.model, "operation": "fit"},
            ) from error

    async def update_job(self, job: Job) -> None:
        """Stores the new state of a job.

        Raises:
            ServiceError: DISK_FULL.
        """
        statement = update(_jobs).where(_jobs.c.id == job.id).values(_row(job))
        await self._run(lambda connection: connection.execute(statement))

    async def job(self, job_id: str) -> Job | None:
        """Returns a job, or None."""
        found = await self._jobs_where(_jobs.c.id == job_id)
        return found[0] if found else None

    async def job_of_request(self, request_id: str) -> Job | None:
        """Returns the job that a request_id made, or None."""
        found = await self._jobs_where(_jobs.c.request_id == (request_id or None))
        return found[0] if found and request_id else None

    async def jobs(
        self, model: str | None, states: Sequence[JobState], limit: int, before: tuple[datetime, str] | None
    ) -> Sequence[Job]:
        """Returns jobs, the latest first; `before` is the (create_time, id) of the last one of the page before.

        Args:
            model: Only jobs of this model; None for all.
            states: Only jobs in one of these states; empty for all.
        """
        conditions = []
        if model is not None:
            conditions.append(_jobs.c.model == model)
        if states:
            conditions.append(_jobs.c.state.in_(states))
        if before is not None:
            conditions.append(tuple_(_jobs.c.create_time, _jobs.c.id) < tuple_(*before))
        return await self._jobs_where(*conditions, limit=limit)

    async def unfinished_jobs(self) -> Sequence[Job]:
        """Returns the jobs that are queued or running, the latest first."""
        return await self._jobs_where(_jobs.c.state.in_(_UNFINISHED))

    async def want_loaded(self, wanted: WantedModel) -> None:
        """Notes what should be loaded of a model, in place of what was noted of it before."""
        row = {"model": wanted.model, "serving": wanted.serving, **asdict(wanted.capacity)}
        loads = [
            {"model": wanted.model, "version": version, "loaded_by": who} for version, who in wanted.loaded_by.items()
        ]

        def work(connection: Connection) -> None:
            _want_nothing(connection, wanted.model)
            connection.execute(insert(_wanted_models).values(row))
            connection.execute(insert(_wanted_loads), loads)

        await self._run(work)

    async def want_unloaded(self, model: str) -> None:
        """Notes that no version of a model should be loaded."""
        await self._run(lambda connection: _want_nothing(connection, model))

    async def wanted_models(self) -> Sequence[WantedModel]:
        """Returns what should be loaded, by model."""
        query = select(_wanted_models, _wanted_loads.c.version, _wanted_loads.c.loaded_by)
        query = query.join(_wanted_loads, _wanted_loads.c.model == _wanted_models.c.model)
        query = query.order_by(_wanted_models.c.model, _wanted_loads.c.version)
        rows = await self._run(lambda connection: connection.execute(query).mappings().all())
        loads: dict[str, dict[int, str]] = {}
        for row in rows:
            loads.setdefault(row["model"], {})[row["version"]] = row["loaded_by"]
        models = {row["model"]: row for row in rows}
        return [WantedModel(model, row["serving"], loads[model], _capacity(row)) for model, row in models.items()]

    async def set_alias(self, alias: Alias) -> None:
        """Stores an alias, in place of the model's one of that name."""

        def work(connection: Connection) -> None:
            connection.execute(_delete_alias(alias.model, alias.name))
            connection.execute(insert(_aliases).values(asdict(alias)))

        await self._run(work)

    async def delete_alias(self, model: str, name: str) -> None:
        """Deletes an alias. One that is not there is no error."""
        await self._run(lambda connection: connection.execute(_delete_alias(model, name)))

    async def aliases(self) -> Sequence[Alias]:
        """Returns all aliases, by model and name."""
        query = select(_aliases).order_by(_aliases.c.model, _aliases.c.name)
        rows = await self._run(lambda connection: connection.execute(query).mappings().all())
        return [Alias(**row) for row in rows]

    async def close(self) -> None:
        """Closes the database. What is under way ends first."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._engine.dispose)
        self._thread.shutdown()

    async def _jobs_where(self, *conditions: ColumnElement[bool], limit: int | None = None) -> list[Job]:
        query = select(_jobs).where(*conditions).order_by(_jobs.c.create_time.desc(), _jobs.c.id.desc())
        rows = await self._run(lambda connection: connection.execute(query.limit(limit)).mappings().all())
        return [_job(row) for row in rows]

    async def _run(self, work: Callable[[Connection], _Result]) -> _Result:
        """Runs work in one transaction. Raises ServiceError DISK_FULL or DATABASE_UNAVAILABLE."""
        try:
            return await self._in_thread(work)
        except DBAPIError as error:
            if _is_disk_full(error):
                raise disk_full() from error
            if _is_unavailable(error):
                _log.error("the database does not do its work: %s", error.orig)
                raise _unavailable() from error
            raise

    async def _in_thread(self, work: Callable[[Connection], _Result]) -> _Result:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._transact, work)

    def _transact(self, work: Callable[[Connection], _Result]) -> _Result:
        with self._engine.begin() as connection:
            return work(connection)


def _want_nothing(connection: Connection, model: str) -> None:
    for table in (_wanted_loads, _wanted_models):
        connection.execute(delete(table).where(table.c.model == model))


def _delete_alias(model: str, name: str) -> Delete:
    return delete(_aliases).where(_aliases.c.model == model, _aliases.c.name == name)


def _capacity(row: RowMapping) -> Capacity:
    return Capacity(row["instances"], row["max_batch_rows"], row["max_queue_rows"])


def _engine(url: str) -> Engine:
    try:
        parsed = make_url(url)
        if parsed.get_backend_name() not in ("sqlite", "postgresql"):
            raise DatabaseNotUsable(f"the database {parsed} is neither SQLite nor PostgreSQL; use one of these")
        settings = _LIBPQ_SETTINGS if parsed.get_driver_name() in _LIBPQ_DRIVERS else {}
        missing = {name: value for name, value in settings.items() if name not in parsed.query}
        # A connection may have died since it was last used, when PostgreSQL was restarted.
        engine = create_engine(parsed, pool_pre_ping=True, connect_args=missing)
    except ArgumentError as error:
        raise DatabaseNotUsable(
            "the database's URL is none; write for example sqlite:////var/lib/fitserve.db"
        ) from error
    except ModuleNotFoundError as error:
        package = "psycopg[binary]" if error.name == "psycopg" else error.name
        message = f"the driver for {parsed} is not installed; install it with: pip install '{package}'"
        raise DatabaseNotUsable(message) from error
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _set_up_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    return engine


def _set_up_sqlite(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
    """Makes a commit durable, and leaves transactions to SQLAlchemy, so that migrations are in one too."""
    connection.isolation_level = None
    cursor = connection.cursor()
    for setting in _SQLITE_SETTINGS:
        cursor.execute(f"PRAGMA {setting}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    """Takes the write lock at once: a transaction that reads first could not wait for it later."""
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _is_disk_full(error: DBAPIError) -> bool:
    return (
        getattr(error.orig, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL
        or getattr(error.orig, "sqlstate", None) == _POSTGRESQL_DISK_FULL
    )


def _is_unavailable(error: DBAPIError) -> bool:
    """Whether the database is away, locked or read-only for now, so that the same call may succeed later."""
    return (
        error.connection_invalidated
        or isinstance(error, (OperationalError, InterfaceError))
        or getattr(error.orig, "sqlstate", None) == _POSTGRESQL_READ_ONLY
    )


def _unavailable() -> ServiceError:
    return ServiceError(
        Reason.DATABASE_UNAVAILABLE,
        "the database of jobs and loads does not answer; try again, and see the service's log if it lasts",
    )


def _migrate(connection: Connection) -> None:
    """Brings the tables up to date, in the connection's transaction.

    Raises:
        DatabaseNotUsable: A newer release made the tables.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(select(func.pg_advisory_xact_lock(_MIGRATION_LOCK)))
    revision = None
    if inspect(connection).has_table("alembic_version"):
        revision = connection.scalar(text("SELECT version_num FROM alembic_version"))
    if revision != REVISION:
        _upgrade(connection, revision)


def _upgrade(connection: Connection, revision: str | None) -> None:
    # Imported here, because a start with an up-to-date database does without it.
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if revision is not None and revision not in known:
        raise DatabaseNotUsable(
            f"a newer FitServe made the database {connection.engine.url} (its revision is {revision}, the newest "
            f"known is {REVISION}): install that release, or choose another database"
        )
    command.upgrade(config, "head")


def _row(job: Job) -> dict[str, object]:
    """Returns the columns' values; a field's name is its column's name."""
    return {**asdict(job), "request_id": job.request_id or None}


def _job(row: RowMapping) -> Job:
    # Any: the columns' types are only known at run time.
    values: dict[str, Any] = dict(row)
    step, error, load_error = values["step"], values["error"], values["load_error"]
    return Job(
        **values
        | {
            "task": Task(values["task"]),
            "state": JobState(values["state"]),
            "request_id": values["request_id"] or "",
            "step": step and TrainingStep(**step),
            "error": error and JobError(**error),
            "load_error": load_error and JobError(**load_error),
        }
    )
