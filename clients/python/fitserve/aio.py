"""The client for asyncio."""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable, Mapping, Sequence
from contextlib import aclosing
from types import TracebackType
from typing import Literal, Self, TypeVar, overload

import grpc
import numpy.typing as npt
from google.protobuf.message import Message

from fitserve import _channel, _core, _imports, errors, resources
from fitserve._aio_sender import Sender, each
from fitserve._core import Existing, OnError, Source, Task
from fitserve._features import Rows, TrainingData
from fitserve._imports import Format, ModelFile
from fitserve._jobs import AsyncJob
from fitserve._tensors import Array
from fitserve.resources import Dataset, Model, Prediction, ServerStatus, TrainingJob
from fitserve.v1 import (
    data_pb2,
    model_service_pb2,
    model_service_pb2_grpc,
    prediction_service_pb2,
    prediction_service_pb2_grpc,
    server_service_pb2,
    server_service_pb2_grpc,
    training_service_pb2,
    training_service_pb2_grpc,
)

_Request = TypeVar("_Request")
_Reply = TypeVar("_Reply")
_PageRequest = TypeVar("_PageRequest", bound=_core.PageRequest)
_PageReply = TypeVar("_PageReply", bound=_core.PageReply)


class AsyncClient:
    """A connection to a FitServe service for asyncio, with the methods of `Client`.

    Make and use it inside one running event loop. After a fork it must not be used; see `Client`.

    Example:
        async with fitserve.AsyncClient("127.0.0.1:50051") as client:
            job = await client.fit("iris", X, y, algorithm="random_forest", load=True)
            await job.wait()
            labels = await client.predict("iris", X)
    """

    def __init__(
        self,
        target: str,
        *,
        timeout: float | None = _channel.DEFAULT_TIMEOUT,
        metadata: _channel.Metadata | None = None,
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        """Opens a channel; see `Client`."""
        options = _channel.options()
        self._channel = (
            grpc.aio.secure_channel(target, credentials, options)
            if credentials
            else grpc.aio.insecure_channel(target, options)
        )
        self._timeout = timeout
        self._metadata = _channel.pairs(metadata)
        self._training = training_service_pb2_grpc.TrainingServiceStub(self._channel)
        self._models = model_service_pb2_grpc.ModelServiceStub(self._channel)
        self._prediction = prediction_service_pb2_grpc.PredictionServiceStub(self._channel)
        self._server = server_service_pb2_grpc.ServerServiceStub(self._channel)

    async def close(self) -> None:
        """Closes the connection; calls in flight are cancelled."""
        await self._channel.close(None)

    async def __aenter__(self) -> Self:
        """Returns the client."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes the connection."""
        await self.close()

    # Training

    async def fit(
        self,
        model: str,
        X: Rows | data_pb2.Inputs | None = None,
        y: npt.ArrayLike | None = None,
        *,
        algorithm: str | Message,
        target: str | Sequence[str] = "",
        dataset: str = "",
        task: Task | None = None,
        validation_fraction: float | None = None,
        seed: int | None = None,
        cores: int | None = None,
        time_limit: float | datetime.timedelta | None = None,
        memory_limit_bytes: int | None = None,
        queue: bool = False,
        existing: Existing = "fail",
        load: bool = False,
        request_id: str | None = None,
        sample_weight: npt.ArrayLike | None = None,
        class_weights: Mapping[str, float] | None = None,
        prefer_gpu: bool = False,
        text_columns: Sequence[str] = (),
        timeout: float | None = None,
        **hyperparameters: object,
    ) -> AsyncJob:
        """Starts the training of a model and returns at once with the job; see `Client.fit`."""
        fit = _core.fit(
            model,
            X,
            y,
            algorithm=algorithm,
            hyperparameters=hyperparameters,
            target=target,
            dataset=dataset,
            task=task,
            validation_fraction=validation_fraction,
            seed=seed,
            cores=cores,
            time_limit=time_limit,
            memory_limit_bytes=memory_limit_bytes,
            queue=queue,
            existing=existing,
            load=load,
            request_id=request_id,
            sample_weight=sample_weight,
            class_weights=class_weights,
            prefer_gpu=prefer_gpu,
            text_columns=text_columns,
        )
        if fit.upload:
            fit.request.dataset = (await self._upload(each([fit.upload]), None, model, timeout)).digest
        reply = await self._call(self._training.Fit, fit.request, timeout)
        return AsyncJob(self, resources.read(TrainingJob, reply.job))

    async def upload_dataset(
        self,
        X: Rows | Source,
        y: npt.ArrayLike | None = None,
        *,
        chunk_rows: int | None = None,
        display_name: str = "",
        timeout: float | None = None,
    ) -> Dataset:
        """Stores training data; see `Client.upload_dataset`. X may be an asynchronous iterator too."""
        chunks = _core.chunks(X, y)

        async def data() -> AsyncIterator[TrainingData]:
            async for chunk in each(chunks):
                yield _core.read_chunk(chunk)

        return await self._upload(data(), chunk_rows, display_name, timeout)

    async def datasets(self, *, timeout: float | None = None) -> list[Dataset]:
        """Returns the uploaded datasets, the latest first."""
        request = training_service_pb2.ListDatasetsRequest(page_size=1000)
        pages = self._pages(self._training.ListDatasets, request, timeout)
        return [resources.read(Dataset, one) async for page in pages for one in page.datasets]

    async def delete_dataset(self, digest: str, *, timeout: float | None = None) -> None:
        """Deletes an uploaded dataset; see `Client.delete_dataset`."""
        request = training_service_pb2.DeleteDatasetRequest(dataset=digest)
        await self._call(self._training.DeleteDataset, request, timeout)

    async def job(self, id: str, *, timeout: float | None = None) -> AsyncJob:
        """Returns a handle on a job; see `Client.job`."""
        return AsyncJob(self, await self._get_job(id, timeout))

    async def jobs(
        self, model: str | None = None, *, states: Sequence[str] = (), timeout: float | None = None
    ) -> list[AsyncJob]:
        """Returns handles on all jobs, the latest first; see `Client.jobs`."""
        request = _core.list_jobs_request(model, states)
        pages = self._pages(self._training.ListTrainingJobs, request, timeout)
        return [AsyncJob(self, resources.read(TrainingJob, one)) async for page in pages for one in page.jobs]

    # Models

    async def models(self, *, timeout: float | None = None) -> list[Model]:
        """Returns all models by name."""
        request = model_service_pb2.ListModelsRequest(page_size=1000)
        pages = self._pages(self._models.ListModels, request, timeout)
        return [resources.read(Model, one) async for page in pages for one in page.models]

    async def model(self, name: str, version: int | str | None = None, *, timeout: float | None = None) -> Model:
        """Returns a model with its versions and aliases; see `Client.model`."""
        number, alias = _core.named(version)
        request = model_service_pb2.GetModelRequest(model=name, version=number, alias=alias)
        return resources.read(Model, (await self._call(self._models.GetModel, request, timeout)).model)

    async def load(
        self,
        name: str,
        version: int | str | None = None,
        *,
        evict: bool = False,
        alongside: bool = False,
        instances: int | None = None,
        max_batch_rows: int | None = None,
        max_queue_rows: int | None = None,
        timeout: float | None = None,
    ) -> Model:
        """Loads a version and returns when it answers predictions; see `Client.load`."""
        request = _core.load_request(
            name,
            version,
            evict=evict,
            alongside=alongside,
            instances=instances,
            max_batch_rows=max_batch_rows,
            max_queue_rows=max_queue_rows,
        )
        return resources.read(Model, (await self._call(self._models.Load, request, timeout)).model)

    async def import_model(
        self,
        model: str,
        file: ModelFile,
        *,
        format: Format | None = None,
        task: Task | None = None,
        shape: Sequence[int] | None = None,
        columns: Iterable[str] | None = None,
        missing_values: bool = False,
        classes: npt.ArrayLike | None = None,
        inputs: Mapping[str, Sequence[int]] | None = None,
        outputs: Iterable[str] | None = None,
        trusted_types: Iterable[str] = (),
        new_version: bool = False,
        load: bool = False,
        timeout: float | None = None,
    ) -> Model:
        """Brings a model that was trained elsewhere, and returns it with its new version; see `Client.import_model`."""
        wanted = _imports.import_of(
            model,
            file,
            format=format,
            task=task,
            shape=shape,
            columns=columns,
            missing_values=missing_values,
            classes=classes,
            inputs=inputs,
            outputs=outputs,
            trusted_types=trusted_types,
            new_version=new_version,
            load=load,
        )

        async def messages() -> AsyncGenerator[model_service_pb2.ImportModelRequest, None]:
            parts = wanted.messages()
            while (part := await asyncio.to_thread(next, parts, None)) is not None:
                yield part

        call = self._models.ImportModel(None, timeout=timeout, metadata=self._metadata)
        sender = Sender(call, messages())
        try:
            return _imports.read_import(await call)
        except (grpc.RpcError, asyncio.CancelledError) as error:
            sender.raise_cause(error)
        finally:
            await sender.close()

    async def unload(self, name: str, version: int | str | None = None, *, timeout: float | None = None) -> Model:
        """Unloads a model; see `Client.unload`."""
        number, alias = _core.named(version)
        request = model_service_pb2.UnloadRequest(model=name, version=number, alias=alias)
        return resources.read(Model, (await self._call(self._models.Unload, request, timeout)).model)

    async def set_alias(self, name: str, alias: str, version: int, *, timeout: float | None = None) -> Model:
        """Lets an alias name a version; see `Client.set_alias`."""
        request = model_service_pb2.SetAliasRequest(model=name, alias=alias, version=version)
        return resources.read(Model, (await self._call(self._models.SetAlias, request, timeout)).model)

    async def rollback_alias(self, name: str, alias: str, *, timeout: float | None = None) -> Model:
        """Moves an alias back to the version that it named before; see `Client.rollback_alias`."""
        request = model_service_pb2.RollbackAliasRequest(model=name, alias=alias)
        return resources.read(Model, (await self._call(self._models.RollbackAlias, request, timeout)).model)

    async def delete_alias(self, name: str, alias: str, *, timeout: float | None = None) -> Model:
        """Deletes an alias; see `Client.delete_alias`."""
        request = model_service_pb2.DeleteAliasRequest(model=name, alias=alias)
        return resources.read(Model, (await self._call(self._models.DeleteAlias, request, timeout)).model)

    async def remove(
        self, name: str, version: int | None = None, *, force: bool = False, timeout: float | None = None
    ) -> list[int]:
        """Deletes a model, or one version of it, and returns the versions deleted; see `Client.remove`."""
        request = model_service_pb2.RemoveRequest(model=name, version=version, force=force)
        return list((await self._call(self._models.Remove, request, timeout)).removed_versions)

    async def remove_all(self, *, force: bool = False, timeout: float | None = None) -> list[str]:
        """Deletes all models and returns their names; see `Client.remove_all`."""
        request = model_service_pb2.RemoveAllRequest(force=force)
        return list((await self._call(self._models.RemoveAll, request, timeout)).removed_models)

    # Prediction

    @overload
    async def predict(
        self,
        model: str,
        X: Rows | data_pb2.Inputs,
        *,
        version: int | str | None = None,
        timeout: float | None = None,
    ) -> Array: ...

    @overload
    async def predict(
        self,
        model: str,
        *,
        tensors: Mapping[str, npt.ArrayLike],
        version: int | str | None = None,
        timeout: float | None = None,
    ) -> Mapping[str, Array]: ...

    async def predict(
        self,
        model: str,
        X: Rows | data_pb2.Inputs | None = None,
        *,
        tensors: Mapping[str, npt.ArrayLike] | None = None,
        version: int | str | None = None,
        timeout: float | None = None,
    ) -> Array | Mapping[str, Array]:
        """Predicts rows, or named tensors, and returns the predictions; see `Client.predict`."""
        answer = await self._predict(model, _core.rows_or_tensors(X, tensors), version, False, timeout)
        return answer.predictions if tensors is None else answer.outputs

    async def predict_proba(
        self,
        model: str,
        X: Rows | data_pb2.Inputs,
        *,
        version: int | str | None = None,
        timeout: float | None = None,
    ) -> Prediction:
        """Predicts rows and returns the whole answer; see `Client.predict_proba`."""
        return await self._predict(model, X, version, True, timeout)

    @overload
    def predict_stream(
        self,
        model: str,
        batches: Iterable[Rows | data_pb2.Inputs] | AsyncIterable[Rows | data_pb2.Inputs],
        *,
        version: int | str | None = None,
        include_probabilities: bool = False,
        max_in_flight: int = 8,
        on_error: Literal["raise"] = "raise",
        timeout: float | None = None,
    ) -> AsyncIterator[Prediction]: ...

    @overload
    def predict_stream(
        self,
        model: str,
        batches: Iterable[Rows | data_pb2.Inputs] | AsyncIterable[Rows | data_pb2.Inputs],
        *,
        version: int | str | None = None,
        include_probabilities: bool = False,
        max_in_flight: int = 8,
        on_error: Literal["yield"],
        timeout: float | None = None,
    ) -> AsyncIterator[Prediction | errors.FitServeError]: ...

    def predict_stream(
        self,
        model: str,
        batches: Iterable[Rows | data_pb2.Inputs] | AsyncIterable[Rows | data_pb2.Inputs],
        *,
        version: int | str | None = None,
        include_probabilities: bool = False,
        max_in_flight: int = 8,
        on_error: OnError = "raise",
        timeout: float | None = None,
    ) -> AsyncIterator[Prediction | errors.FitServeError]:
        """Predicts batch after batch over one stream; see `Client.predict_stream`.

        The batches may also come from an asynchronous iterable. Another task of the same loop reads them.

        Example:
            async for answer in client.predict_stream("iris", np.array_split(X, 100)):
                print(answer.predictions)
        """
        _core.check_stream(max_in_flight, on_error)
        config = _core.stream_config(model, version, include_probabilities)
        return self._predict_stream(config, batches, max_in_flight, on_error, timeout)

    # The service

    async def status(self, *, timeout: float | None = None) -> ServerStatus:
        """Returns what the service runs, what is loaded and what is free."""
        request = server_service_pb2.GetStatusRequest()
        reply = await self._call(self._server.GetStatus, request, timeout)
        return resources.read(ServerStatus, reply)

    # Calls

    async def _call(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[_Request, _Reply],
        request: _Request,
        timeout: float | None,
    ) -> _Reply:
        limit = self._timeout if timeout is None else timeout
        try:
            return await method(request, timeout=limit, metadata=self._metadata)
        except grpc.RpcError as error:
            raise errors.from_rpc_error(error) from error

    async def _pages(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[_PageRequest, _PageReply],
        request: _PageRequest,
        timeout: float | None,
    ) -> AsyncIterator[_PageReply]:
        while True:
            reply = await self._call(method, request, timeout)
            yield reply
            if not reply.next_page_token:
                return
            request.page_token = reply.next_page_token

    async def _predict(
        self,
        model: str,
        rows: Rows | data_pb2.Inputs,
        version: int | str | None,
        include_probabilities: bool,
        timeout: float | None,
    ) -> Prediction:
        request = _core.predict_request(model, rows, version, include_probabilities)
        return _core.read_prediction(await self._call(self._prediction.Predict, request, timeout))

    async def _predict_stream(
        self,
        config: prediction_service_pb2.PredictStreamRequest,
        batches: Iterable[Rows | data_pb2.Inputs] | AsyncIterable[Rows | data_pb2.Inputs],
        max_in_flight: int,
        on_error: OnError,
        timeout: float | None,
    ) -> AsyncIterator[Prediction | errors.FitServeError]:
        window = asyncio.Semaphore(max_in_flight)

        async def messages() -> AsyncGenerator[prediction_service_pb2.PredictStreamRequest, None]:
            yield config
            async with aclosing(each(batches)) as source:
                while await window.acquire():
                    try:
                        batch = await anext(source)
                    except StopAsyncIteration:
                        return
                    yield _core.stream_inputs(batch)

        call = self._prediction.PredictStream(None, timeout=timeout, metadata=self._metadata)
        sender = Sender(call, messages())
        try:
            async for reply in call:
                window.release()
                yield _core.read_batch(reply, on_error)
        except (grpc.RpcError, asyncio.CancelledError) as error:
            sender.raise_cause(error)
        finally:
            await sender.close()

    async def _upload(
        self, data: AsyncIterator[TrainingData], chunk_rows: int | None, display_name: str, timeout: float | None
    ) -> Dataset:
        async def messages() -> AsyncGenerator[training_service_pb2.UploadDatasetRequest, None]:
            yield _core.upload_description(display_name)
            async for one in data:
                for message in _core.upload_parts(one, chunk_rows):
                    yield message

        call = self._training.UploadDataset(None, timeout=timeout, metadata=self._metadata)
        sender = Sender(call, messages())
        try:
            return resources.read(Dataset, (await call).dataset)
        except (grpc.RpcError, asyncio.CancelledError) as error:
            sender.raise_cause(error)
        finally:
            await sender.close()

    async def _get_job(self, id: str, timeout: float | None = None) -> TrainingJob:
        request = training_service_pb2.GetTrainingJobRequest(job=id)
        return resources.read(TrainingJob, (await self._call(self._training.GetTrainingJob, request, timeout)).job)

    async def _cancel_job(self, id: str) -> TrainingJob:
        request = training_service_pb2.CancelTrainingJobRequest(job=id)
        return resources.read(TrainingJob, (await self._call(self._training.CancelTrainingJob, request, None)).job)

    async def _watch_job(
        self, id: str, timeout: float | None
    ) -> AsyncIterator[training_service_pb2.WatchTrainingJobResponse]:
        request = training_service_pb2.WatchTrainingJobRequest(job=id)
        call = self._training.WatchTrainingJob(request, timeout=timeout, metadata=self._metadata)
        try:
            async for reply in call:
                yield reply
        except grpc.RpcError as error:
            raise errors.from_rpc_error(error) from error
        finally:
            call.cancel()
