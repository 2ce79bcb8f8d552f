"""inference.GRPCInferenceService: the Open Inference Protocol v2 in Triton's dialect, over our models."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import aclosing
from functools import partial
from typing import Any, NoReturn

from google.protobuf.message import Message
from tritonclient.grpc import service_pb2 as pb

from service.domain.entities import Choice, LoadOrder
from service.domain.errors import Reason, ServiceError, invalid
from service.domain.loaded import LoadedVersion
from service.domain.overview import Overview
from service.domain.predictor import Predictor
from service.rpc import oip_metadata, oip_named_tensors, oip_tensors, validate
from service.rpc.boundary import Context
from service.rpc.caller import caller
from service.rpc.large import in_thread, read
from service.rpc.ordered import answer_or_error, in_order

SERVICE = "inference.GRPCInferenceService"

LARGE = 8192
"""So many values to read or write one by one are read or written in a thread, so that other calls go on meanwhile."""


class OipModels:
    """The calls about the server and its models.

    Args:
        overview: Knows the models, Triton, and whether the service drains.
    """

    def __init__(self, overview: Overview) -> None:
        self._overview = overview
        self._registry = overview.registry

    # -- the server ----------------------------------------------------------------------------------------------

    async def ServerLive(self, request: pb.ServerLiveRequest, context: Context) -> pb.ServerLiveResponse:
        """Says that the server answers."""
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(self, request: pb.ServerReadyRequest, context: Context) -> pb.ServerReadyResponse:
        """Says whether loaded models answer."""
        ready = self._overview.recovery.triton_ready and not self._overview.draining
        return pb.ServerReadyResponse(ready=ready)

    async def ServerMetadata(self, request: pb.ServerMetadataRequest, context: Context) -> pb.ServerMetadataResponse:
        """Says what the server is."""
        return oip_metadata.server_metadata()

    # -- models --------------------------------------------------------------------------------------------------

    async def ModelReady(self, request: pb.ModelReadyRequest, context: Context) -> pb.ModelReadyResponse:
        """Says whether a model answers; one that does not exist is not ready."""
        name, version = _named(request)
        return pb.ModelReadyResponse(ready=self._registry.answers(name, version))

    async def ModelMetadata(self, request: pb.ModelMetadataRequest, context: Context) -> pb.ModelMetadataResponse:
        """Returns the tensors of a loaded model."""
        manifest = self._registry.serving(*_named(request)).manifest
        return oip_metadata.model_metadata(manifest, sorted(self._registry.model(manifest.model).loaded))

    async def ModelConfig(self, request: pb.ModelConfigRequest, context: Context) -> pb.ModelConfigResponse:
        """Returns the configuration of a loaded model, as Triton has it."""
        manifest = self._registry.serving(*_named(request)).manifest
        data = await self._overview.inference.configuration(manifest)
        return pb.ModelConfigResponse.FromString(data)

    async def ModelStatistics(self, request: pb.ModelStatisticsRequest, context: Context) -> pb.ModelStatisticsResponse:
        """Returns what a loaded version has done, or all of a model, or of all models."""
        await self._registry.count_work()
        return pb.ModelStatisticsResponse(
            model_stats=[oip_metadata.model_statistics(one) for one in self._asked_for(request)]
        )

    def _asked_for(self, request: pb.ModelStatisticsRequest) -> list[LoadedVersion]:
        """Returns the one version that a request names, or all loaded ones of the model, or of all models, in order."""
        entries = self._registry.models()
        if request.name:
            name, choice = _named(request)
            one = self._registry.serving(name, choice)
            if choice is not None:
                return [one]
            entries = [self._registry.model(name)]
        return [entry.loaded[version] for entry in entries for version in sorted(entry.loaded)]


class OipInference:
    """The calls that predict, which is all that a process without a registry answers.

    Args:
        predictor: Answers inferences.
        stream_batches: The most requests of one stream that are at work at one time.
    """

    def __init__(self, predictor: Predictor, stream_batches: int) -> None:
        self._predictor = predictor
        self._stream_batches = stream_batches

    async def ModelInfer(self, request: pb.ModelInferRequest, context: Context) -> pb.ModelInferResponse:
        """Answers one request."""
        model = validate.model_name(request.model_name, "model_name")
        version = oip_tensors.version_of(request.model_version, "model_version")
        loaded = self._predictor.find(model, version)  # one that does not answer is told before what its input lacks
        if loaded.manifest.signature.inputs:
            return await self._infer_tensors(loaded, request)
        classes = oip_tensors.classes_wanted(request)
        if oip_tensors.values_to_read(request) < LARGE:
            rows = oip_tensors.rows_of(request)
            prediction = await self._predictor.predict(loaded, rows.features, rows.data)
        else:
            with loaded.kept():
                rows = await in_thread(oip_tensors.rows_of, request)
                prediction = await self._predictor.predict(loaded, rows.features, rows.data)
        if classes is None or len(prediction.scores) * classes < LARGE:
            return oip_tensors.response_of(request, prediction, classes)
        return await in_thread(oip_tensors.response_of, request, prediction, classes)

    async def _infer_tensors(self, loaded: LoadedVersion, request: pb.ModelInferRequest) -> pb.ModelInferResponse:
        """Answers one request to a model of named tensors."""
        signature = loaded.manifest.signature
        outputs = oip_named_tensors.check_outputs(request, signature)
        large = request.ByteSize() >= LARGE
        batch = await read(loaded, large, oip_named_tensors.batch_from, request, signature)
        prediction = await self._predictor.predict_tensors(loaded, [batch])
        return oip_named_tensors.response_of(request, prediction, outputs)

    async def ModelStreamInfer(
        self, request_iterator: AsyncIterator[pb.ModelInferRequest], context: Context
    ) -> AsyncIterator[pb.ModelStreamInferResponse]:
        """Answers request after request, in order.

        An error is the answer to its request, and the stream goes on; with the header `triton_grpc_error: true` it is
        the status that ends the stream.
        """
        ends_at_error = ("triton_grpc_error", "true") in (context.invocation_metadata() or ())
        answer = partial(self._stream_answer, context, ends_at_error)
        async with aclosing(in_order(request_iterator, answer, self._stream_batches)) as answers:
            async for one in answers:
                yield one
                del one  # the next one may be long in coming

    async def _stream_answer(
        self, context: Context, ends_at_error: bool, request: pb.ModelInferRequest
    ) -> pb.ModelStreamInferResponse:
        answer = await answer_or_error(self.ModelInfer(request, context), f"/{SERVICE}/ModelStreamInfer")
        message = ""
        if isinstance(answer, ServiceError):
            if ends_at_error:
                raise answer
            message = answer.message
            answer = pb.ModelInferResponse(
                model_name=request.model_name, model_version=request.model_version, id=request.id
            )
        answer.parameters["triton_final_response"].bool_param = True  # as Triton: each request has one response
        return pb.ModelStreamInferResponse(error_message=message, infer_response=answer)


class OipServicer(OipModels, OipInference):
    """Translates between Triton's contract and the domain.

    tritonclient has no types, so its base class is left out: a method that it adds then fails at the start.

    Args:
        predictor: Answers inferences.
        overview: Knows the models, Triton, and whether the service drains.
        stream_batches: The most requests of one stream that are at work at one time.
    """

    def __init__(self, predictor: Predictor, overview: Overview, stream_batches: int) -> None:
        OipModels.__init__(self, overview)
        OipInference.__init__(self, predictor, stream_batches)

    # -- the repository ------------------------------------------------------------------------------------------

    async def RepositoryIndex(self, request: pb.RepositoryIndexRequest, context: Context) -> pb.RepositoryIndexResponse:
        """Lists all versions of all models with their states."""
        _one_repository(request.repository_name, "RepositoryIndex")
        await self._registry.look_for_operators_models()
        versions = (version for entry in self._registry.models() for version in oip_metadata.index_of(entry))
        return pb.RepositoryIndexResponse(
            models=[version for version in versions if not request.ready or version.state == oip_metadata.READY]
        )

    async def RepositoryModelLoad(
        self, request: pb.RepositoryModelLoadRequest, context: Context
    ) -> pb.RepositoryModelLoadResponse:
        """Loads the latest version of a model, as ModelService.Load does."""
        _one_repository(request.repository_name, "RepositoryModelLoad")
        if request.parameters:
            _unimplemented(
                "RepositoryModelLoad",
                f"parameters: {_names(request.parameters)} would change how the model is served, which its artifact "
                "decides; load it without parameters",
            )
        name = validate.model_name(request.model_name, "model_name")
        await self._registry.look_for_operators_models()
        await self._registry.load(name, None, LoadOrder(caller(context)))
        return pb.RepositoryModelLoadResponse()

    async def RepositoryModelUnload(
        self, request: pb.RepositoryModelUnloadRequest, context: Context
    ) -> pb.RepositoryModelUnloadResponse:
        """Unloads a model, as ModelService.Unload does; none depends on another, so `unload_dependents` changes nothing."""
        _one_repository(request.repository_name, "RepositoryModelUnload")
        if unknown := set(request.parameters) - {"unload_dependents"}:
            raise invalid("parameters", f"{_names(unknown)} are not known; unload_dependents is")
        await self._registry.unload(validate.model_name(request.model_name, "model_name"))
        return pb.RepositoryModelUnloadResponse()

    # -- what is not served --------------------------------------------------------------------------------------

    async def SystemSharedMemoryStatus(self, request: Message, context: Context) -> NoReturn:
        """Is not served."""
        _no_shared_memory("SystemSharedMemoryStatus")

    async def SystemSharedMemoryRegister(self, request: Message, context: Context) -> NoReturn:
        """Is not served."""
        _no_shared_memory("SystemSharedMemoryRegister")

    async def SystemSharedMemoryUnregister(self, request: Message, context: Context) -> NoReturn:
        """Is not served."""
        _no_shared_memory("SystemSharedMemoryUnregister")

    async def CudaSharedMemoryStatus(self, request: Message, context: Context) -> NoReturn:
        """Is not served."""
        _no_shared_memory("CudaSharedMemoryStatus")

    async def CudaSharedMemoryRegister(self, request: Message, context: Context) -> NoReturn:
        """Is not served."""
        _no_shared_memory("CudaSharedMemoryRegister")

    async def CudaSharedMemoryUnregister(self, request: Message, context: Context) -> NoReturn:
        """Is not served."""
        _no_shared_memory("CudaSharedMemoryUnregister")

    async def TraceSetting(self, request: Message, context: Context) -> NoReturn:
        """Is not served."""
        _unimplemented("TraceSetting", "traces of requests are not served; ModelStatistics has counts and times")

    async def LogSettings(self, request: Message, context: Context) -> NoReturn:
        """Is not served."""
        _unimplemented("LogSettings", "the log is set by LOG_LEVEL when the service starts")


def _named(request: Any) -> tuple[str, Choice]:
    """Returns the model and the version that a request names. Any: of several types with the same fields."""
    return validate.model_name(request.name, "name"), oip_tensors.version_of(request.version, "version")


def _names(parameters: Iterable[str]) -> str:
    return ", ".join(sorted(name[:80] for name in parameters))


def _one_repository(name: str, method: str) -> None:
    if name:
        _unimplemented(method, "repository_name: there is one repository; leave the field empty")


def _no_shared_memory(method: str) -> NoReturn:
    _unimplemented(
        method,
        "shared memory is not served; send tensors in raw_input_contents and take them from raw_output_contents",
    )


def _unimplemented(method: str, message: str) -> NoReturn:
    raise ServiceError(Reason.UNIMPLEMENTED, message, {"method": f"/{SERVICE}/{method}"})
