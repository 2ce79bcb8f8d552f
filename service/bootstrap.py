"""Puts the service together: the only place that knows every class."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

import grpc.aio

from service.adapters.datasets import DatasetFiles
from service.adapters.embedded_triton import EmbeddedTriton
from service.adapters.follower_processes import FollowerProcesses
from service.adapters.journal import DatabaseJournal
from service.adapters.layout import RepositoryLayout
from service.adapters.process_group import ProcProcesses
from service.adapters.repository import RepositoryArtifacts, read_manifest
from service.adapters.trainer_process import ForkServerTrainer
from service.adapters.triton import TritonInference
from service.domain.aliases import Aliases
from service.domain.follower import Follower
from service.domain.imports import ImportLimits, Imports
from service.domain.intake import Intake
from service.domain.jobs import Jobs
from service.domain.overview import Overview
from service.domain.predictor import Predictor
from service.domain.recovery import Recovery
from service.domain.registry import Registry
from service.domain.scheduler import Scheduler
from service.domain.shared_datasets import SharedDatasets
from service.http2.server import Server
from service.rpc.following import FollowingOip, FollowingPredictions
from service.rpc.health import Health
from service.rpc.model_servicer import ModelServicer
from service.rpc.oip_servicer import OipServicer
from service.rpc.prediction_servicer import PredictionServicer
from service.rpc.relay import CHANNEL_OPTIONS, Relay
from service.rpc.server import Servicers, build_following_server, build_server
from service.rpc.server_servicer import ServerServicer
from service.rpc.training_servicer import TrainingServicer
from service.settings import PredictionProcessSettings, Settings


class SystemClock:
    """Implements the port Clock."""

    def now(self) -> datetime:
        """Returns the current time, with the time zone UTC."""
        return datetime.now(UTC)


@dataclass
class Service:
    """What the life cycle starts and stops."""

    server: Server
    health: Health
    recovery: Recovery
    registry: Registry
    jobs: Jobs
    imports: Imports
    trainer: ForkServerTrainer
    inference: TritonInference
    overview: Overview
    followers: FollowerProcesses


@asynccontextmanager
async def build(settings: Settings) -> AsyncIterator[Service]:
    """Yields the service, not started; lets go of the model directory and the database afterwards.

    Raises:
        RepositoryInUse: Another service has the model directory.
        DatabaseNotUsable: The database cannot be reached, or is newer than this service.
    """
    async with AsyncExitStack() as stack:
        settings.model_dir.mkdir(parents=True, exist_ok=True)
        model_dir = settings.model_dir.resolve()
        clock = SystemClock()
        artifacts = RepositoryArtifacts(model_dir)
        stack.callback(artifacts.close)
        datasets = DatasetFiles(model_dir)
        journal = DatabaseJournal(settings.database)
        stack.push_async_callback(journal.close)
        await journal.open()
        trainer = ForkServerTrainer(heartbeat_timeout=settings.heartbeat_seconds)
        new_triton = partial(EmbeddedTriton, settings.triton_python, model_dir, stop_timeout=0)
        inference = TritonInference(
            None if settings.triton_url else new_triton, settings.triton_url, settings.triton_start_seconds
        )
        followers = FollowerProcesses(settings.prediction_processes - 1)
        registry = Registry(
            artifacts, journal, inference, clock, settings.max_loaded_models, settings.prediction_queue_rows, followers
        )
        scheduler = Scheduler(settings.training_cores, settings.training_queue)
        jobs = Jobs(registry, scheduler, trainer, artifacts, datasets, journal, clock)
        shared = SharedDatasets(datasets, jobs.user_of_dataset)
        intake = Intake(jobs, datasets, shared, artifacts, clock)
        health = Health()
        recovery = Recovery(artifacts, journal, registry, inference, clock, health.set_predictions)
        overview = Overview(registry, jobs, scheduler, trainer, inference, recovery, ProcProcesses())
        imports = Imports(registry, trainer, artifacts, clock, _import_limits(settings))
        predictor = Predictor(registry, settings.prediction_queue_bytes)
        servicers = Servicers(
            training=TrainingServicer(intake, jobs, datasets, shared, clock),
            models=ModelServicer(registry, Aliases(registry, clock), imports),
            predictions=PredictionServicer(predictor, settings.stream_batches),
            server=ServerServicer(overview, clock.now()),
            oip=OipServicer(predictor, overview, settings.stream_batches),
            health=health.servicer,
        )
        hand_over = followers.hand_over if settings.prediction_processes > 1 else None
        server = build_server(servicers, settings.max_calls, settings.max_message_bytes, hand_over)
        yield Service(server, health, recovery, registry, jobs, imports, trainer, inference, overview, followers)


def _import_limits(settings: Settings) -> ImportLimits:
    return ImportLimits(
        enabled=settings.training_cores > 0,
        file_bytes=settings.import_file_bytes,
        memory_bytes=settings.import_memory_bytes,
        seconds=settings.import_seconds,
        torchscript=settings.import_torchscript,
    )


@dataclass
class PredictionProcess:
    """What a further process starts and stops."""

    server: Server
    follower: Follower
    channel: grpc.aio.Channel


def build_prediction_process(
    settings: PredictionProcessSettings, on_crash: Callable[[int], None], on_gone: Callable[[], None]
) -> PredictionProcess:
    """Returns what answers predictions in a further process, not started.

    Args:
        on_crash: Is told the serial number of a version that Triton has lost.
        on_gone: Is told whenever a caller's connection has ended.
    """
    layout = RepositoryLayout(settings.model_dir)

    follower = Follower(partial(read_manifest, layout), TritonInference.at, settings.prediction_queue_rows, on_crash)
    predictor = Predictor(follower, settings.prediction_queue_bytes)
    channel = grpc.aio.insecure_channel(settings.primary, options=CHANNEL_OPTIONS)
    relay = Relay(channel, settings.token)
    server = build_following_server(
        FollowingPredictions(predictor, settings.stream_batches, relay),
        FollowingOip(predictor, settings.stream_batches, relay),
        relay,
        settings.max_calls,
        settings.max_message_bytes,
        on_gone,
    )
    return PredictionProcess(server, follower, channel)
