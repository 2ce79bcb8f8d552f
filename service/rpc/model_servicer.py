"""ModelService: the models and which of them are loaded."""

from __future__ import annotations

from collections.abc import AsyncIterator

from fitserve.v1 import model_service_pb2, model_service_pb2_grpc

from service.domain.aliases import Aliases
from service.domain.entities import LoadOrder
from service.domain.errors import invalid
from service.domain.imports import Imports
from service.domain.registry import Registry
from service.rpc import uploads, validate
from service.rpc.boundary import Context
from service.rpc.caller import caller
from service.rpc.import_order import import_order
from service.rpc.messages import model_message
from service.rpc.pages import place_of, token_after
from service.rpc.status import status_of

pb = model_service_pb2


class ModelServicer(model_service_pb2_grpc.ModelServiceServicer):
    """Translates between the contract and the domain."""

    def __init__(self, registry: Registry, aliases: Aliases, imports: Imports) -> None:
        self._registry = registry
        self._aliases = aliases
        self._imports = imports

    async def ListModels(self, request: pb.ListModelsRequest, context: Context) -> pb.ListModelsResponse:
        """Lists the models."""
        validate.bounds(request)
        place = place_of(request.page_token, 1)
        await self._registry.look_for_operators_models()
        entries = [entry for entry in self._registry.models() if place is None or entry.name > place[0]]
        size = validate.page_size(request.page_size)
        token = token_after(entries[size - 1].name) if len(entries) > size else ""
        return pb.ListModelsResponse(models=[model_message(entry) for entry in entries[:size]], next_page_token=token)

    async def GetModel(self, request: pb.GetModelRequest, context: Context) -> pb.GetModelResponse:
        """Returns a model."""
        name, choice = validate.model_name(request.model), validate.choice(request)
        await self._registry.look_for_operators_models()
        entry = self._registry.model(name)
        only = None if choice is None else self._registry.chosen(name, choice).version
        return pb.GetModelResponse(model=model_message(entry, only))

    async def Load(self, request: pb.LoadRequest, context: Context) -> pb.LoadResponse:
        """Loads a version."""
        name, choice = validate.model_name(request.model), validate.choice(request)
        await self._registry.look_for_operators_models()
        evicted = await self._registry.load(name, choice, _load_order(request, caller(context)))
        return pb.LoadResponse(model=model_message(self._registry.model(name)), evicted_models=evicted)

    async def Unload(self, request: pb.UnloadRequest, context: Context) -> pb.UnloadResponse:
        """Unloads a model or a version."""
        name, choice = validate.model_name(request.model), validate.choice(request)
        await self._registry.unload(name, choice)
        return pb.UnloadResponse(model=model_message(self._registry.model(name)))

    async def Remove(self, request: pb.RemoveRequest, context: Context) -> pb.RemoveResponse:
        """Deletes a model or a version."""
        name = validate.model_name(request.model)
        removed = await self._registry.remove(name, validate.version(request), request.force)
        return pb.RemoveResponse(removed_versions=removed)

    async def RemoveAll(self, request: pb.RemoveAllRequest, context: Context) -> pb.RemoveAllResponse:
        """Deletes all models."""
        removed = await self._registry.remove_all(request.force)
        kept = [entry.name for entry in self._registry.models() if entry.of_operator]
        return pb.RemoveAllResponse(removed_models=removed, kept_models=kept)

    async def SetAlias(self, request: pb.SetAliasRequest, context: Context) -> pb.SetAliasResponse:
        """Lets an alias name a version."""
        model, alias, version = *_alias_of(request), validate.version(request)
        if version is None:
            raise invalid("version", "say which version the alias is to name")
        await self._aliases.set(model, alias, version, caller(context))
        return pb.SetAliasResponse(model=model_message(self._registry.model(model)))

    async def RollbackAlias(self, request: pb.RollbackAliasRequest, context: Context) -> pb.RollbackAliasResponse:
        """Moves an alias back."""
        model, alias = _alias_of(request)
        await self._aliases.roll_back(model, alias, caller(context))
        return pb.RollbackAliasResponse(model=model_message(self._registry.model(model)))

    async def DeleteAlias(self, request: pb.DeleteAliasRequest, context: Context) -> pb.DeleteAliasResponse:
        """Deletes an alias."""
        model, alias = _alias_of(request)
        await self._aliases.delete(model, alias)
        return pb.DeleteAliasResponse(model=model_message(self._registry.model(model)))

    async def ImportModel(
        self, request_iterator: AsyncIterator[pb.ImportModelRequest], context: Context
    ) -> pb.ImportModelResponse:
        """Brings a model that was trained elsewhere."""
        order = import_order(await anext(request_iterator, None), caller(context))
        async with self._imports.upload(order) as upload:
            async for message in uploads.without_silence(request_iterator):
                if message.WhichOneof("message") != "content":
                    raise invalid("content", "after the description every message is a part of the file")
                await uploads.in_thread(upload.append, message.content)
                del message  # the next one may be long in coming
            await uploads.in_thread(upload.finish)
            imported = await self._imports.make(upload)
        error = imported.load_error
        return pb.ImportModelResponse(
            model=model_message(self._registry.model(order.model)),
            version=imported.version,
            load_error=status_of(error) if error is not None else None,
        )


def _alias_of(request: pb.SetAliasRequest | pb.RollbackAliasRequest | pb.DeleteAliasRequest) -> tuple[str, str]:
    return validate.model_name(request.model), validate.alias_name(request.alias)


def _load_order(request: pb.LoadRequest, loaded_by: str) -> LoadOrder:
    """Returns how a version is to be loaded; the bounds of a field that is not set are never 0."""
    return LoadOrder(
        loaded_by=loaded_by,
        alongside=request.alongside,
        evict=request.evict,
        instances=request.instances or None,
        max_batch_rows=request.max_batch_rows or None,
        max_queue_rows=request.max_queue_rows or None,
    )
