"""Batches of named tensors for models whose code can say that a request's inputs are wrong."""

from __future__ import annotations

from service.domain.batcher import TensorBatcher, Waiting
from service.domain.errors import ServiceError
from service.domain.named_tensors import TensorBatch
from service.domain.ports import InputsRefused


class LoneTriesBatcher(TensorBatcher):
    """Tries each member of a batch whose inputs were refused alone, however many: none answers for another's inputs."""

    async def _answer_rejected(self, members: list[Waiting[TensorBatch, TensorBatch]], error: ServiceError) -> None:
        if len(members) == 1 or not isinstance(error, InputsRefused):
            await super()._answer_rejected(members, error)
            return
        for member in members:
            if not member.asker.done():
                await self._answer([member])
