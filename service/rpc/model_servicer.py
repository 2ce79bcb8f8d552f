"""ModelService: the models and which of them are loaded."""

from __future__ import annotations

from collections.abc import AsyncIterator

from fitserve.v1 import model_service_pb2, model_service_pb2_grpc

from service.domain.errors import Reason, ServiceError
from service.domain.registry import Registry
from service.rpc import validate
from service.rpc.boundary import Context
from service.rpc.messages import model_message
from service.rpc.pages import place_of, token_after

pb = model_service_pb2


class ModelServicer(model_service_pb2_grpc.ModelServiceServicer):
    """Translates between the contract and the domain."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    async def ListModels(self, request: pb.ListModelsRequest, context: Context) -> pb.ListModelsResponse:
        """Lists the models."""
        validate.bounds(request)
        place = place_of(request.page_token, 1)
        entries = [entry for entry in self._registry.models() if place is None or entry.name > place[0]]
        size = validate.page_size(request.page_size)
        token = token_after(entries[size - 1].name) if len(entries) > size else ""
        return pb.ListModelsResponse(models=[model_message(entry) for entry in entries[:size]], next_page_token=token)

    async def GetModel(self, request: pb.GetModelRequest, context: Context) -> pb.GetModelResponse:
        """Returns a model."""
        name = validate.model_name(request.model)
        return pb.GetModelResponse(model=model_message(self._registry.model(name)))

    async def Load(self, request: pb.LoadRequest, context: Context) -> pb.LoadResponse:
        """Loads a version."""
        name = validate.model_name(request.model)
        evicted = await self._registry.load(name, validate.version(request), request.evict, context.peer())
        return pb.LoadResponse(model=model_message(self._registry.model(name)), evicted_models=evicted)

    async def Unload(self, request: pb.UnloadRequest, context: Context) -> pb.UnloadResponse:
        """Unloads a model."""
        name = validate.model_name(request.model)
        await self._registry.unload(name)
        return pb.UnloadResponse(model=model_message(self._registry.model(name)))

    async def Remove(self, request: pb.RemoveRequest, context: Context) -> pb.RemoveResponse:
        """Deletes a model or a version."""
        name = validate.model_name(request.model)
        removed = await self._registry.remove(name, validate.version(request), request.force)
        return pb.RemoveResponse(removed_versions=removed)

    async def RemoveAll(self, request: pb.RemoveAllRequest, context: Context) -> pb.RemoveAllResponse:
        """Deletes all models."""
        return pb.RemoveAllResponse(removed_models=await self._registry.remove_all(request.force))

    async def ImportModel(
        self, request_iterator: AsyncIterator[pb.ImportModelRequest], context: Context
    ) -> pb.ImportModelResponse:
        """Is not there yet."""
        raise ServiceError(
            Reason.UNIMPLEMENTED,
            "ImportModel is part of the contract, but this release does not do it yet; train the model with Fit",
            {"method": "/fitserve.v1.ModelService/ImportModel"},
        )
