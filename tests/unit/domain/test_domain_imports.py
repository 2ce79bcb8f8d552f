"""Imports among fakes: what callers are told of their limits, and callers who go away while their version is loaded."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest

from service.domain.entities import ImportOrder, LoadOrder
from service.domain.errors import Reason, ServiceError
from service.domain.imports import MAX_UPLOADS, Imported, ImportLimits, Imports
from service.rpc.status import status_of
from tests.unit.domain.fakes import FakeTrainer, rows_of, turns, until
from tests.unit.domain.test_domain_registry import World

LIMITS = ImportLimits(enabled=True, file_bytes=10, memory_bytes=2**30, seconds=10)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    """A world with version 1 of the model `a` loaded."""
    world = World()
    registry = await world.started("a")
    await registry.load("a", 1, LoadOrder("ann"))
    yield world
    await registry.close()


def imports_of(world: World) -> Imports:
    trainer = FakeTrainer()
    trainer.at_once = True
    return Imports(world.registry, trainer, world.artifacts, world.clock, LIMITS)


def order(digest: str = "") -> ImportOrder:
    return ImportOrder("a", b"", digest, new_version=True, load=True, loaded_by="bob")


async def import_one(imports: Imports, content: bytes = b"model", digest: str = "") -> Imported:
    async with imports.upload(order(digest)) as upload:
        upload.append(content)
        upload.finish()
        return await imports.make(upload)


async def refusal_of(world: World, content: bytes, digest: str = "") -> ServiceError:
    with pytest.raises(ServiceError) as refused:
        await import_one(imports_of(world), content, digest)
    return refused.value


# -- what callers are told -------------------------------------------------------------------------------------------


async def test_a_file_that_is_too_large_names_the_setting_of_files(world: World) -> None:
    status = status_of(await refusal_of(world, b"x" * 11)).SerializeToString()
    assert b"IMPORT_FILE_BYTES: 10" in status
    assert b"MAX_MESSAGE_BYTES" not in status


async def test_another_digest_names_the_model(world: World) -> None:
    status = status_of(await refusal_of(world, b"x", "sha256:2")).SerializeToString()
    assert b"fitserve.v1.Model" in status
    assert b"fitserve.v1.Dataset" not in status


async def test_who_finds_too_many_imports_is_asked_to_wait_for_long(world: World) -> None:
    imports, come, sent = imports_of(world), asyncio.Semaphore(0), asyncio.Event()

    async def send_slowly() -> None:
        async with imports.upload(order()):
            come.release()
            await sent.wait()

    sending = [asyncio.create_task(send_slowly()) for _ in range(MAX_UPLOADS)]
    for _ in sending:
        await come.acquire()
    with pytest.raises(ServiceError) as refused:
        await import_one(imports)
    sent.set()
    await asyncio.gather(*sending)
    assert (refused.value.reason, refused.value.retry) == (Reason.TOO_MANY_CALLS, 30)
    status = status_of(refused.value).SerializeToString()
    assert b"imports: 16" in status
    assert b"MAX_CALLS" not in status


# -- callers who go away while their version is loaded ---------------------------------------------------------------


async def goes_away(importing: asyncio.Task[Imported]) -> None:
    await turns()
    importing.cancel()
    with suppress(asyncio.CancelledError):
        await importing


async def all_agree_on_version_2(world: World) -> None:
    """Waits until memory, journal and Triton have version 2 of the model, and it alone."""
    entry = world.registry.model("a")
    await until(lambda: list(entry.loaded) == [2] and not entry.turn.taken)
    assert world.inference.held == {"a": [2]}
    assert await world.wanted() == {"a": 2}
    assert [stream.version for stream in world.inference.streams if not stream.closed.is_set()] == [2]


async def test_a_load_goes_on_without_its_caller_while_triton_works(world: World) -> None:
    world.inference.load_gate.shut()
    importing = asyncio.create_task(import_one(imports_of(world)))
    await until(lambda: world.inference.load_gate.waiting == 1)
    await goes_away(importing)
    world.inference.load_gate.open()
    await all_agree_on_version_2(world)


async def test_a_load_goes_on_without_its_caller_while_the_journal_writes(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    written, heard_of = asyncio.Event(), asyncio.Event()
    write = world.journal.want_loaded

    async def slow(*arguments: object) -> None:
        await write(*arguments)  # type: ignore[arg-type]
        written.set()
        await heard_of.wait()

    monkeypatch.setattr(world.journal, "want_loaded", slow)
    importing = asyncio.create_task(import_one(imports_of(world)))
    await written.wait()
    await goes_away(importing)
    heard_of.set()
    await all_agree_on_version_2(world)


async def test_a_load_goes_on_without_its_caller_while_the_version_before_drains(world: World) -> None:
    world.inference.infer_gate.shut()
    batcher = world.registry.serving("a", None).batcher
    predicting = asyncio.create_task(batcher.predict(rows_of(2), 1))
    await until(lambda: world.inference.infer_gate.waiting == 1)
    importing = asyncio.create_task(import_one(imports_of(world)))
    await until(lambda: 2 in world.registry.model("a").loaded)
    await goes_away(importing)
    world.inference.infer_gate.open()
    assert (await predicting).tolist() == [[4]]
    await all_agree_on_version_2(world)
