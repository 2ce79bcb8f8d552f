"""ServerService: how the service is."""

from __future__ import annotations

from datetime import datetime

from fitserve.v1 import server_service_pb2, server_service_pb2_grpc

from service import __version__
from service.domain.overview import Overview
from service.rpc.boundary import Context
from service.rpc.messages import timestamp

pb = server_service_pb2


class ServerServicer(server_service_pb2_grpc.ServerServiceServicer):
    """Translates between the contract and the domain."""

    def __init__(self, overview: Overview, start_time: datetime) -> None:
        self._overview = overview
        self._start_time = start_time

    async def GetStatus(self, request: pb.GetStatusRequest, context: Context) -> pb.GetStatusResponse:
        """Returns what is running, loaded and free."""
        await self._overview.registry.count_work()
        return pb.GetStatusResponse(
            version=__version__,
            start_time=timestamp(self._start_time),
            draining=self._overview.draining,
            training=self._training(),
            models=self._models(),
            triton=self._triton(),
            memory_bytes=self._overview.memory_bytes(),
        )

    def _training(self) -> pb.TrainingStatus:
        overview = self._overview
        return pb.TrainingStatus(
            total_cores=overview.scheduler.total_cores,
            free_cores=overview.scheduler.free_cores,
            active_processes=[
                pb.TrainingProcess(job=job.id, model=job.model, pid=pid, cores=job.cores, memory_bytes=memory)
                for job, pid, memory in overview.training_processes()
            ],
            queued_job_count=overview.scheduler.queued,
            queue_limit=overview.scheduler.queue_limit,
            idle_interpreter_count=overview.trainer.idle_interpreters,
        )

    def _models(self) -> pb.ModelPoolStatus:
        registry = self._overview.registry
        entries = registry.models()
        loaded = [
            pb.LoadedModel(
                model=entry.name,
                version=version,
                pending_request_count=loaded.pending_requests,
                instances=entry.capacity.instances,
            )
            for entry in entries
            for version, loaded in sorted(entry.loaded.items())
        ]
        return pb.ModelPoolStatus(loaded=loaded, limit=registry.max_loaded, stored_count=len(entries))

    def _triton(self) -> pb.TritonStatus:
        overview = self._overview
        return pb.TritonStatus(
            ready=overview.recovery.triton_ready,
            version=overview.inference.version,
            embedded=overview.inference.embedded,
            restart_count=overview.recovery.triton_restarts,
        )
