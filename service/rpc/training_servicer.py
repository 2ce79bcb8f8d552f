"""TrainingService: fits, jobs and datasets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime

from fitserve.v1 import dataset_pb2, training_service_pb2, training_service_pb2_grpc

from service.domain.entities import JobState
from service.domain.errors import Reason, ServiceError, invalid
from service.domain.intake import Intake, fields_below
from service.domain.jobs import Jobs
from service.domain.ports import Clock, Datasets, DatasetWriter
from service.domain.shared_datasets import SharedDatasets
from service.rpc import inputs, uploads, validate
from service.rpc.boundary import Context
from service.rpc.fit_order import fit_order
from service.rpc.large import in_thread
from service.rpc.messages import JOB_STATES, dataset_message, job_message, step_message
from service.rpc.pages import place_of, token_after

pb = training_service_pb2

LARGE_REQUEST_BYTES = 2**18
"""Requests from this size on are taken apart in a thread, so that predictions go on meanwhile."""

STATES = {message: state for state, message in JOB_STATES.items()}


class TrainingServicer(training_service_pb2_grpc.TrainingServiceServicer):
    """Translates between the contract and the domain."""

    def __init__(self, intake: Intake, jobs: Jobs, datasets: Datasets, shared: SharedDatasets, clock: Clock) -> None:
        self._intake = intake
        self._jobs = jobs
        self._datasets = datasets
        self._shared = shared
        self._clock = clock

    async def Fit(self, request: pb.FitRequest, context: Context) -> pb.FitResponse:
        """Starts the training of a model."""
        if request.ByteSize() < LARGE_REQUEST_BYTES:
            order = fit_order(request)
        else:
            order = await in_thread(fit_order, request)
        return pb.FitResponse(job=job_message(await self._intake.accept(order)))

    async def UploadDataset(
        self, request_iterator: AsyncIterator[pb.UploadDatasetRequest], context: Context
    ) -> pb.UploadDatasetResponse:
        """Stores training data that comes in chunks."""
        description = await _description(request_iterator)
        if description.digest and (known := await asyncio.to_thread(self._datasets.get, description.digest)):
            return pb.UploadDatasetResponse(dataset=dataset_message(known), existed=True)
        writer = self._datasets.writer(None)
        try:
            async for message in request_iterator:
                if message.WhichOneof("message") != "chunk":
                    raise invalid("chunk", "after the description every message is a chunk")
                await uploads.in_thread(_append, writer, message.chunk)
            digest = await uploads.in_thread(_digest, writer, description)
            return await uploads.in_thread(self._finish, writer, digest, description.display_name)
        finally:
            await asyncio.to_thread(writer.abort)

    def _finish(self, writer: DatasetWriter, digest: str, display_name: str) -> pb.UploadDatasetResponse:
        existed = self._datasets.get(digest) is not None
        dataset = writer.finish(display_name, self._clock.now())
        return pb.UploadDatasetResponse(dataset=dataset_message(dataset), existed=existed)

    async def ListDatasets(self, request: pb.ListDatasetsRequest, context: Context) -> pb.ListDatasetsResponse:
        """Lists the uploaded datasets."""
        validate.bounds(request)
        place = place_of(request.page_token, 1)
        datasets = list(await asyncio.to_thread(self._datasets.list))
        if place is not None:
            digests = [dataset.digest for dataset in datasets]
            datasets = datasets[digests.index(place[0]) + 1 :] if place[0] in digests else []
        size = validate.page_size(request.page_size)
        token = token_after(datasets[size - 1].digest) if len(datasets) > size else ""
        page = [dataset_message(dataset) for dataset in datasets[:size]]
        return pb.ListDatasetsResponse(datasets=page, next_page_token=token)

    async def DeleteDataset(self, request: pb.DeleteDatasetRequest, context: Context) -> pb.DeleteDatasetResponse:
        """Deletes an uploaded dataset."""
        await self._shared.delete(validate.dataset_digest(request.dataset))
        return pb.DeleteDatasetResponse()

    async def GetTrainingJob(self, request: pb.GetTrainingJobRequest, context: Context) -> pb.GetTrainingJobResponse:
        """Returns a job."""
        return pb.GetTrainingJobResponse(job=job_message(await self._jobs.get(_job_id(request.job))))

    async def ListTrainingJobs(
        self, request: pb.ListTrainingJobsRequest, context: Context
    ) -> pb.ListTrainingJobsResponse:
        """Lists the jobs."""
        validate.bounds(request)
        model = validate.model_name(request.model) if request.model else None
        place = place_of(request.page_token, 2)
        try:
            before = (datetime.fromisoformat(place[0]), place[1]) if place else None
        except ValueError:
            raise invalid("page_token", "it is not a token of this list; leave it empty for the first page") from None
        size = validate.page_size(request.page_size)
        jobs = await self._jobs.page(model, _states(request), size + 1, before)
        token = token_after(jobs[size - 1].create_time.isoformat(), jobs[size - 1].id) if len(jobs) > size else ""
        return pb.ListTrainingJobsResponse(jobs=[job_message(job) for job in jobs[:size]], next_page_token=token)

    async def CancelTrainingJob(
        self, request: pb.CancelTrainingJobRequest, context: Context
    ) -> pb.CancelTrainingJobResponse:
        """Cancels a job."""
        return pb.CancelTrainingJobResponse(job=job_message(await self._jobs.cancel(_job_id(request.job))))

    async def WatchTrainingJob(
        self, request: pb.WatchTrainingJobRequest, context: Context
    ) -> AsyncIterator[pb.WatchTrainingJobResponse]:
        """Streams a job's news."""
        async for news in self._jobs.watch(_job_id(request.job)):
            steps = [step_message(step) for step in news.steps]
            yield pb.WatchTrainingJobResponse(job=job_message(news.job), steps=steps, log_lines=news.log_lines)


async def _description(messages: AsyncIterator[pb.UploadDatasetRequest]) -> dataset_pb2.DatasetDescription:
    """Returns the description that an upload starts with, checked."""
    first = await anext(messages, None)
    if first is None or first.WhichOneof("message") != "description":
        raise invalid("description", "the first message of an upload is its description")
    description = first.description
    validate.bounds(description, "description")
    validate.text(description.display_name, "description.display_name")
    if description.digest:
        validate.dataset_digest(description.digest, "description.digest")
    if description.format not in (dataset_pb2.DATASET_FORMAT_UNSPECIFIED, dataset_pb2.DATASET_FORMAT_CHUNKS):
        raise inputs.unsupported_format()
    return description


def _append(writer: DatasetWriter, chunk: dataset_pb2.DatasetChunk) -> None:
    block = inputs.block_of_chunk(chunk)
    with fields_below("chunk"):
        writer.append(block)


def _digest(writer: DatasetWriter, description: dataset_pb2.DatasetDescription) -> str:
    """Returns the digest of what was written. Raises ServiceError DIGEST_MISMATCH if another one was announced."""
    with fields_below("chunk"):
        digest = writer.digest()
    if description.digest and digest != description.digest:
        raise ServiceError(
            Reason.DIGEST_MISMATCH,
            f"the data has the digest {digest} and the description says {description.digest}; send it again",
            {"dataset": description.digest, "expected": description.digest, "actual": digest},
        )
    return digest


def _job_id(job_id: str) -> str:
    if not job_id:
        raise invalid("job", "it is empty; Fit and ListTrainingJobs give the ids of jobs")
    return validate.text(job_id, "job")


def _states(request: pb.ListTrainingJobsRequest) -> list[JobState]:
    for index, state in enumerate(request.states):
        if state not in STATES:
            raise invalid(f"states[{index}]", f"{state} is no state of a job")
    return [STATES[state] for state in request.states]
