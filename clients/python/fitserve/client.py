"""The synchronous client."""

from __future__ import annotations

import datetime
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import Literal, Self, TypeVar, overload

import grpc
import numpy.typing as npt
from google.protobuf.message import Message

from fitserve import _channel, _core, _imports, errors, resources
from fitserve._core import Chunk, Existing, OnError, Task
from fitserve._features import Rows, TrainingData
from fitserve._imports import Format, ModelFile
from fitserve._jobs import Job
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
_Item = TypeVar("_Item")


class Client:
    """A connection to a FitServe service. All errors of calls are `fitserve.FitServeError`s.

    One client may be used from several threads at once, and should be: it is one HTTP/2 connection. It must
    not be used on both sides of a fork: gRPC has threads of its own, which a fork does not copy. Make the
    client after the fork (in the worker's initializer, for a pool), or start workers with the `spawn` method.

    Calls that change nothing, or change the same thing once however often they are made, are tried up to five
    times within about two seconds while the service is unavailable.

    Example:
        with fitserve.Client("127.0.0.1:50051") as client:
            client.fit("iris", X, y, algorithm="random_forest", load=True).wait()
            labels = client.predict("iris", X)
    """

    def __init__(
        self,
        target: str,
        *,
        timeout: float | None = _channel.DEFAULT_TIMEOUT,
        metadata: _channel.Metadata | None = None,
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        """Opens a channel. It connects with the first call, and again whenever the connection breaks.

        Args:
            target: The address, such as "127.0.0.1:50051" or "dns:///fitserve:50051".
            timeout: How many seconds a call may take unless the call says otherwise; None for no limit.
                Uploads and streams have no limit unless they are given one.
            metadata: Sent with each call, such as {"authorization": "Bearer KEY"}.
            credentials: For TLS, such as grpc.ssl_channel_credentials(); None for plain text.
        """
        options = _channel.options()
        self._channel = (
            grpc.secure_channel(target, credentials, options) if credentials else grpc.insecure_channel(target, options)
        )
        self._timeout = timeout
        self._metadata = _channel.pairs(metadata)
        self._training = training_service_pb2_grpc.TrainingServiceStub(self._channel)
        self._models = model_service_pb2_grpc.ModelServiceStub(self._channel)
        self._prediction = prediction_service_pb2_grpc.PredictionServiceStub(self._channel)
        self._server = server_service_pb2_grpc.ServerServiceStub(self._channel)

    def close(self) -> None:
        """Closes the connection; calls in flight end with the error Cancelled."""
        self._channel.close()

    def __enter__(self) -> Self:
        """Returns the client."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes the connection."""
        self.close()

    # Training

    def fit(
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
    ) -> Job:
        """Starts the training of a model and returns at once with the job.

        Data of more than 48 MB is uploaded first, by itself.

        Args:
            model: The name of the model, matching ^[a-z][a-z0-9_-]{0,62}$.
            X: The features: an array of shape [rows, columns] or [rows, channels, height, width], which
                becomes float32 (uint8 stays); or columns with names: a dict from name to values, a data
                frame, or a list with one dict a row.
            y: The values to learn, shape [rows]: texts, integers, numbers or truth values. Predictions come
                back in the same type. Or several numbers a row, shape [rows, values].
            algorithm: The name of the algorithm, such as "random_forest", or its message from
                fitserve.v1.algorithm_pb2.
            target: The name of the column of X to learn, in place of y; or a list of several names, for algorithms
                that learn several values a row.
            dataset: The digest of uploaded data, in place of X.
            task: What to learn; without it, it follows from y and the algorithm.
            validation_fraction: The share of the rows held out for the metrics; 0.2 if None.
            seed: The seed of everything random; 0 if None.
            cores: How many cores to train on; 1 if None.
            time_limit: How long the training may take, in seconds.
            memory_limit_bytes: How much memory the training may use.
            queue: Whether to wait for free cores instead of being refused.
            existing: What to do if the model exists: "fail", or make a "new_version".
            load: Whether the new version is loaded when it is ready.
            request_id: Makes the call idempotent over programs: the same identifier gives the same job.
                Without it the client makes one up, so that its own retries start no second job.
            sample_weight: What each row of X counts in training, shape [rows].
            class_weights: What the rows of a label count in training, by the label as a text, such as
                {"setosa": 2, "virginica": 0.5}; 1 for the others.
            prefer_gpu: Whether a GPU is to compute the model where Triton has one.
            text_columns: The names of the columns of X that hold free text, for algorithms that learn from words.
            timeout: How many seconds the call may take; it does not wait for the training.
            **hyperparameters: Of the algorithm, such as n_estimators=200; None means the default.

        Raises:
            TypeError: A hyper-parameter is unknown, or the data is missing, doubled or of a wrong type.
            ValueError: The algorithm is unknown, or the data has a wrong shape.
            InvalidArgument: The service refuses a field; `field_violations` names it.
            AlreadyExists: The model exists and `existing` is "fail".
            NotFound: There is no such dataset.
            Aborted: Another fit or a removal of the model is under way.
            ResourceExhausted: No core is free and `queue` is false, or the queue is full; see `retry_after`.

        Example:
            job = client.fit("iris", X, y, algorithm="random_forest", n_estimators=200, load=True)
            job.wait(progress=print)
        """
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
            fit.request.dataset = self._upload([fit.upload], None, model, timeout).digest
        reply = self._call(self._training.Fit, fit.request, timeout)
        return Job(self, resources.read(TrainingJob, reply.job))

    def upload_dataset(
        self,
        X: Rows | Iterator[Chunk],
        y: npt.ArrayLike | None = None,
        *,
        chunk_rows: int | None = None,
        display_name: str = "",
        timeout: float | None = None,
    ) -> Dataset:
        """Stores training data for any number of fits; name it by its digest: `fit(dataset=dataset.digest)`.

        Args:
            X: The features, as in `fit`; or an iterator of pairs (X, y), for data that does not fit in
                memory, or of triples (X, y, sample_weight). It is read from another thread. All its chunks
                must have the same columns and types.
            y: The values to learn, or None if X has a column for them.
            chunk_rows: The number of rows of a message; None makes messages of about 3 MB.
            display_name: A name for people.
            timeout: How many seconds the upload may take; None for no limit.

        Raises:
            TypeError, ValueError: The data is of a wrong type or shape.
            InvalidArgument: The chunks do not fit together.
            ResourceExhausted: The disk is full.

        Example:
            files = ((np.load(path)["X"], np.load(path)["y"]) for path in paths)
            client.upload_dataset(files, display_name="all of 2026")
        """
        data = map(_core.read_chunk, _core.chunks(X, y))
        return self._upload(data, chunk_rows, display_name, timeout)

    def datasets(self, *, timeout: float | None = None) -> list[Dataset]:
        """Returns the uploaded datasets, the latest first."""
        request = training_service_pb2.ListDatasetsRequest(page_size=1000)
        pages = self._pages(self._training.ListDatasets, request, timeout)
        return [resources.read(Dataset, one) for page in pages for one in page.datasets]

    def delete_dataset(self, digest: str, *, timeout: float | None = None) -> None:
        """Deletes an uploaded dataset. Models that were trained on it stay.

        Raises:
            NotFound: There is no such dataset.
            FailedPrecondition: A job that has not ended uses it.
        """
        request = training_service_pb2.DeleteDatasetRequest(dataset=digest)
        self._call(self._training.DeleteDataset, request, timeout)

    def job(self, id: str, *, timeout: float | None = None) -> Job:
        """Returns a handle on a job.

        Raises:
            NotFound: There is no such job.
        """
        return Job(self, self._get_job(id, timeout))

    def jobs(self, model: str | None = None, *, states: Sequence[str] = (), timeout: float | None = None) -> list[Job]:
        """Returns handles on all jobs, the latest first.

        Args:
            model: The model whose jobs are wanted; None for all.
            states: The states wanted, such as ["QUEUED", "RUNNING"]; none for all.
            timeout: How many seconds each call may take.

        Raises:
            ValueError: There is no such state.
        """
        request = _core.list_jobs_request(model, states)
        pages = self._pages(self._training.ListTrainingJobs, request, timeout)
        return [Job(self, resources.read(TrainingJob, one)) for page in pages for one in page.jobs]

    # Models

    def models(self, *, timeout: float | None = None) -> list[Model]:
        """Returns all models by name."""
        request = model_service_pb2.ListModelsRequest(page_size=1000)
        pages = self._pages(self._models.ListModels, request, timeout)
        return [resources.read(Model, one) for page in pages for one in page.models]

    def model(self, name: str, version: int | str | None = None, *, timeout: float | None = None) -> Model:
        """Returns a model with its versions and aliases.

        Args:
            name: The name of the model.
            version: The only version wanted, by its number or an alias; None for all.
            timeout: How many seconds the call may take.

        Raises:
            NotFound: There is no such model; metadata["nearest"] names the nearest known one.
        """
        number, alias = _core.named(version)
        request = model_service_pb2.GetModelRequest(model=name, version=number, alias=alias)
        return resources.read(Model, self._call(self._models.GetModel, request, timeout).model)

    def load(
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
        """Loads a version in place of the serving one, or alongside, and returns when it answers predictions.

        The version that served until then is unloaded, unless an alias names it; all others stay.

        Args:
            name: The name of the model.
            version: The version, by its number or an alias; None for the latest.
            evict: Whether the least recently used idle model may be unloaded to make room.
            alongside: Whether the serving version stays what it is, and calls that name no version stay with it.
            instances: How many copies of each loaded version of the model work in parallel, on a core each.
            max_batch_rows: The most rows of one batch.
            max_queue_rows: The most rows that may wait for a version. None leaves this, as the two before, as it is.
            timeout: How many seconds the call may take.

        Raises:
            NotFound: There is no such model or version.
            ResourceExhausted: As many models are loaded as may be, and `evict` is false.
            FailedPrecondition: Triton refuses the version.
            Aborted: Another operation on the model is under way.
            DataLoss: The files on disk are damaged.

        Example:
            client.load("iris").serving_version
            client.load("iris", 2, alongside=True, instances=2)
        """
        request = _core.load_request(
            name,
            version,
            evict=evict,
            alongside=alongside,
            instances=instances,
            max_batch_rows=max_batch_rows,
            max_queue_rows=max_queue_rows,
        )
        return resources.read(Model, self._call(self._models.Load, request, timeout).model)

    def import_model(
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
        """Brings a model that was trained elsewhere, and returns it with its new version.

        A process of the service reads the file, makes of it what Triton serves, and proves that both predict the same.

        Args:
            model: The name of the model.
            file: The path of the file, or its content.
            format: The format; None tells it by the path: .onnx, .json and .ubj (XGBoost), .txt (LightGBM), .cbm (CatBoost),
                .pt (TorchScript, where the server allows it), .skops (scikit-learn).
            task: classification or regression, where the file does not say it.
            shape: The shape of one row, where the file does not say it.
            columns: The names of the columns, if rows are to come as tables; the file may name them too.
            missing_values: Whether rows may have NaN, where the file does not say it.
            classes: The labels in the order of the scores, where the file does not name them or others are wanted.
            inputs: For .onnx: the shapes of inputs by name, where the file leaves lengths open, -1 for any length.
            outputs: For .onnx: the names of the outputs that are wanted. With `inputs` or `outputs` the model takes and
                gives tensors by their names, as it does anyway if it is more than features to scores.
            trusted_types: For .skops: the types in the file that skops does not trust by itself and you do.
            new_version: Whether the next version is made if the model exists.
            load: Whether the version is loaded.
            timeout: How many seconds the call may take, the upload included; None for as long as it needs.

        Raises:
            InvalidArgument: The file is damaged or not allowed, or what the file does not say is missing.
            AlreadyExists: The model exists and `new_version` is false.
            FailedPrecondition: Nothing that Triton serves predicts what the library predicts; or the version is imported,
                and Triton refuses to load it.
            ResourceExhausted: The file is too large, needs too much memory, or the disk is full.
            Aborted: Another operation on the model is under way.

        Example:
            client.import_model("iris", "iris.onnx", classes=["setosa", "versicolor", "virginica"], load=True)
            client.import_model("prices", "prices.ubj", new_version=True)
            client.import_model("embed", "embed.onnx", outputs=["embedding"], load=True)
        """
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
        feed = _Feed(wanted.messages())
        call = self._models.ImportModel.future(feed, timeout=timeout, metadata=self._metadata)
        feed.call.set_result(call)
        try:
            return _imports.read_import(call.result())
        except grpc.FutureCancelledError as error:
            raise feed.error or errors.cancelled() from error
        except grpc.RpcError as error:
            raise feed.error or errors.from_rpc_error(error) from error
        finally:
            _cancel(call)

    def unload(self, name: str, version: int | str | None = None, *, timeout: float | None = None) -> Model:
        """Unloads a model when its calls in flight are answered. What is not loaded stays as it is.

        Args:
            name: The name of the model.
            version: The only version to unload, by its number or an alias; None for all.
            timeout: How many seconds the call may take.

        Raises:
            NotFound: There is no such model, version or alias.
            Aborted: Another operation on the model is under way.
        """
        number, alias = _core.named(version)
        request = model_service_pb2.UnloadRequest(model=name, version=number, alias=alias)
        return resources.read(Model, self._call(self._models.Unload, request, timeout).model)

    def set_alias(self, name: str, alias: str, version: int, *, timeout: float | None = None) -> Model:
        """Lets an alias name a version, in one step in which no call fails. A new alias is made.

        If the alias's present version is loaded and the new one is not, the new one is loaded first.

        Args:
            name: The name of the model.
            alias: The alias, such as "champion"; it takes what a model's name takes.
            version: The version.
            timeout: How many seconds the call may take.

        Raises:
            NotFound: There is no such model or version.
            FitServeError: As `load` does, if the version must be loaded.

        Example:
            client.set_alias("iris", "champion", 2)
            client.predict("iris", X, version="champion")
        """
        request = model_service_pb2.SetAliasRequest(model=name, alias=alias, version=version)
        return resources.read(Model, self._call(self._models.SetAlias, request, timeout).model)

    def rollback_alias(self, name: str, alias: str, *, timeout: float | None = None) -> Model:
        """Moves an alias back to the version that it named before its last move; once after each move.

        Raises:
            NotFound: There is no such model or alias.
            FailedPrecondition: There is no version to go back to.
            FitServeError: As `set_alias` does.
        """
        request = model_service_pb2.RollbackAliasRequest(model=name, alias=alias)
        return resources.read(Model, self._call(self._models.RollbackAlias, request, timeout).model)

    def delete_alias(self, name: str, alias: str, *, timeout: float | None = None) -> Model:
        """Deletes an alias; its version stays as it is.

        Raises:
            NotFound: There is no such model or alias.
        """
        request = model_service_pb2.DeleteAliasRequest(model=name, alias=alias)
        return resources.read(Model, self._call(self._models.DeleteAlias, request, timeout).model)

    def remove(
        self, name: str, version: int | None = None, *, force: bool = False, timeout: float | None = None
    ) -> list[int]:
        """Deletes a model, or one version of it, from disk for ever, and returns the versions deleted.

        Raises:
            NotFound: There is no such model or version.
            FailedPrecondition: It is loaded, or an alias names it, and `force` is false.
            Aborted: Another operation on the model is under way.
        """
        request = model_service_pb2.RemoveRequest(model=name, version=version, force=force)
        return list(self._call(self._models.Remove, request, timeout).removed_versions)

    def remove_all(self, *, force: bool = False, timeout: float | None = None) -> list[str]:
        """Deletes all models from disk for ever, and returns their names.

        Raises:
            FailedPrecondition: A model is loaded and `force` is false; nothing is deleted.
        """
        request = model_service_pb2.RemoveAllRequest(force=force)
        return list(self._call(self._models.RemoveAll, request, timeout).removed_models)

    # Prediction

    @overload
    def predict(
        self,
        model: str,
        X: Rows | data_pb2.Inputs,
        *,
        version: int | str | None = None,
        timeout: float | None = None,
    ) -> Array: ...

    @overload
    def predict(
        self,
        model: str,
        *,
        tensors: Mapping[str, npt.ArrayLike],
        version: int | str | None = None,
        timeout: float | None = None,
    ) -> Mapping[str, Array]: ...

    def predict(
        self,
        model: str,
        X: Rows | data_pb2.Inputs | None = None,
        *,
        tensors: Mapping[str, npt.ArrayLike] | None = None,
        version: int | str | None = None,
        timeout: float | None = None,
    ) -> Array | Mapping[str, Array]:
        """Predicts rows with a loaded model.

        Args:
            model: The name of the model.
            X: The rows, in any form that `fit` takes: shape [rows, ...] with the shape of a row that the
                model was trained on, or the columns that it was trained on. Models of named tensors take a
                list of dicts, from the name of an input to its value, which may be a list.
            tensors: The inputs of a model of named tensors by name, in place of X, each of its own type.
            version: The version, by its number or an alias such as "champion"; None for the one that serves.
            timeout: How many seconds the call may take.

        Returns:
            Shape [rows]: labels of the type given in training, or float32 for regression, or for models of
            named tensors a dict from the name of an output to its value. For `tensors` the outputs by name.

        Raises:
            TypeError, ValueError: X is of a wrong type or shape.
            InvalidArgument: X does not fit the model; `field_violations` says where.
            NotFound: There is no such model or version.
            FailedPrecondition: It is not loaded.
            ResourceExhausted: Too many rows wait; see `retry_after`.
            Unavailable: The model or Triton is on its way; see `retry_after`.

        Example:
            client.predict("iris", [[5.1, 3.5, 1.4, 0.2]])  # array(['setosa'], dtype='<U6')
            client.predict("text_similarity", tensors={"first": ["iris"], "second": ["irish"]})["similarity"]
        """
        answer = self._predict(model, _core.rows_or_tensors(X, tensors), version, False, timeout)
        return answer.predictions if tensors is None else answer.outputs

    def predict_proba(
        self,
        model: str,
        X: Rows | data_pb2.Inputs,
        *,
        version: int | str | None = None,
        timeout: float | None = None,
    ) -> Prediction:
        """Predicts rows with a loaded model, and returns the whole answer, with the probability of each
        class.

        Takes and raises what `predict` does.

        Returns:
            The predictions of shape [rows], the probabilities of shape [rows, classes] and the classes in
            their order.

        Example:
            answer = client.predict_proba("iris", X)
            answer.probabilities[0, list(answer.classes).index("setosa")]
        """
        return self._predict(model, X, version, True, timeout)

    @overload
    def predict_stream(
        self,
        model: str,
        batches: Iterable[Rows | data_pb2.Inputs],
        *,
        version: int | str | None = None,
        include_probabilities: bool = False,
        max_in_flight: int = 8,
        on_error: Literal["raise"] = "raise",
        timeout: float | None = None,
    ) -> Iterator[Prediction]: ...

    @overload
    def predict_stream(
        self,
        model: str,
        batches: Iterable[Rows | data_pb2.Inputs],
        *,
        version: int | str | None = None,
        include_probabilities: bool = False,
        max_in_flight: int = 8,
        on_error: Literal["yield"],
        timeout: float | None = None,
    ) -> Iterator[Prediction | errors.FitServeError]: ...

    def predict_stream(
        self,
        model: str,
        batches: Iterable[Rows | data_pb2.Inputs],
        *,
        version: int | str | None = None,
        include_probabilities: bool = False,
        max_in_flight: int = 8,
        on_error: OnError = "raise",
        timeout: float | None = None,
    ) -> Iterator[Prediction | errors.FitServeError]:
        """Predicts batch after batch over one stream, and yields one answer a batch, in their order.

        Args:
            model: The name of the model.
            batches: The batches, each as in `predict`; they may be endless. They are read from another
                thread, never more than `max_in_flight` ahead of the answers.
            version: The version, by its number or an alias, which the stream follows when it moves; None for
                the one that serves when the batch comes.
            include_probabilities: Whether the probabilities of the classes come too.
            max_in_flight: How many batches may be sent and not yet answered.
            on_error: What a batch that the service refuses does: "raise" ends the stream with its error;
                "yield" gives the error in the batch's place, and the stream goes on.
            timeout: How many seconds the whole stream may take; None for no limit.

        Raises:
            ValueError: `max_in_flight` is below 1, or `on_error` is unknown.
            FitServeError: As `predict` does, or because the stream broke. What `batches` raises is raised
                here too.

        Example:
            for answer in client.predict_stream("iris", np.array_split(X, 100)):
                print(answer.predictions)
        """
        _core.check_stream(max_in_flight, on_error)
        config = _core.stream_config(model, version, include_probabilities)
        return self._predict_stream(config, batches, max_in_flight, on_error, timeout)

    # The service

    def status(self, *, timeout: float | None = None) -> ServerStatus:
        """Returns what the service runs, what is loaded and what is free."""
        request = server_service_pb2.GetStatusRequest()
        return resources.read(ServerStatus, self._call(self._server.GetStatus, request, timeout))

    # Calls

    def _call(
        self,
        method: grpc.UnaryUnaryMultiCallable[_Request, _Reply],
        request: _Request,
        timeout: float | None,
    ) -> _Reply:
        limit = self._timeout if timeout is None else timeout
        try:
            return method(request, timeout=limit, metadata=self._metadata)
        except grpc.RpcError as error:
            raise errors.from_rpc_error(error) from error

    def _pages(
        self,
        method: grpc.UnaryUnaryMultiCallable[_PageRequest, _PageReply],
        request: _PageRequest,
        timeout: float | None,
    ) -> Iterator[_PageReply]:
        while True:
            reply = self._call(method, request, timeout)
            yield reply
            if not reply.next_page_token:
                return
            request.page_token = reply.next_page_token

    def _predict(
        self,
        model: str,
        rows: Rows | data_pb2.Inputs,
        version: int | str | None,
        include_probabilities: bool,
        timeout: float | None,
    ) -> Prediction:
        request = _core.predict_request(model, rows, version, include_probabilities)
        return _core.read_prediction(self._call(self._prediction.Predict, request, timeout))

    def _predict_stream(
        self,
        config: prediction_service_pb2.PredictStreamRequest,
        batches: Iterable[Rows | data_pb2.Inputs],
        max_in_flight: int,
        on_error: OnError,
        timeout: float | None,
    ) -> Iterator[Prediction | errors.FitServeError]:
        window = threading.Semaphore(max_in_flight)
        closed = threading.Event()

        def messages() -> Iterator[prediction_service_pb2.PredictStreamRequest]:
            yield config
            source = iter(batches)
            while window.acquire() and not closed.is_set():
                try:
                    batch = next(source)
                except StopIteration:
                    return
                yield _core.stream_inputs(batch)

        feed = _Feed(messages())
        call = self._prediction.PredictStream(feed, timeout=timeout, metadata=self._metadata)
        feed.call.set_result(call)
        try:
            for reply in call:
                window.release()
                yield _core.read_batch(reply, on_error)
        except grpc.RpcError as error:
            raise feed.error or errors.from_rpc_error(error) from error
        finally:
            closed.set()
            window.release()
            _cancel(call)

    def _upload(
        self, data: Iterable[TrainingData], chunk_rows: int | None, display_name: str, timeout: float | None
    ) -> Dataset:
        def messages() -> Iterator[training_service_pb2.UploadDatasetRequest]:
            yield _core.upload_description(display_name)
            for one in data:
                yield from _core.upload_parts(one, chunk_rows)

        feed = _Feed(messages())
        call = self._training.UploadDataset.future(feed, timeout=timeout, metadata=self._metadata)
        feed.call.set_result(call)
        try:
            return resources.read(Dataset, call.result().dataset)
        except grpc.FutureCancelledError as error:
            raise feed.error or errors.cancelled() from error
        except grpc.RpcError as error:
            raise feed.error or errors.from_rpc_error(error) from error
        finally:
            _cancel(call)

    def _get_job(self, id: str, timeout: float | None = None) -> TrainingJob:
        request = training_service_pb2.GetTrainingJobRequest(job=id)
        return resources.read(TrainingJob, self._call(self._training.GetTrainingJob, request, timeout).job)

    def _cancel_job(self, id: str) -> TrainingJob:
        request = training_service_pb2.CancelTrainingJobRequest(job=id)
        return resources.read(TrainingJob, self._call(self._training.CancelTrainingJob, request, None).job)

    def _watch_job(self, id: str, timeout: float | None) -> Iterator[training_service_pb2.WatchTrainingJobResponse]:
        request = training_service_pb2.WatchTrainingJobRequest(job=id)
        call = self._training.WatchTrainingJob(request, timeout=timeout, metadata=self._metadata)
        try:
            yield from call
        except grpc.RpcError as error:
            raise errors.from_rpc_error(error) from error
        finally:
            _cancel(call)


class _Feed(Iterator[_Item]):
    """Requests for gRPC's sending thread. What the caller's data raises there cancels the call and is kept.

    Attributes:
        call: The call to cancel, set when there is one.
        error: What was raised.
    """

    def __init__(self, items: Iterator[_Item]) -> None:
        self._items = items
        self.call: Future[grpc.RpcContext] = Future()
        self.error: Exception | None = None

    def __next__(self) -> _Item:
        try:
            return next(self._items)
        except StopIteration:
            raise
        except Exception as error:
            self.error = error
            _cancel(self.call.result())
            raise StopIteration from None


def _cancel(call: grpc.RpcContext) -> None:
    # grpc-stubs gives the method no types.
    call.cancel()
