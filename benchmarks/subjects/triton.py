"""The limit below FitServe: the same rows straight into its Triton."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from tritonclient.grpc import service_pb2

from benchmarks.models import Model
from benchmarks.server_process import Server
from benchmarks.work import STREAM_MESSAGES, Call, Predictions, Work

METHOD = "inference.GRPCInferenceService"


class Triton:
    """See `benchmarks.work.Subject`."""

    name = "triton"
    about = "The Triton that FitServe runs, called straight: ModelInfer and ModelStreamInfer with raw contents."

    def __init__(self, address: str, server: Server, models: dict[str, Model]) -> None:
        """Takes a running Triton with the models loaded."""
        self._address = address
        self._models = models
        self.servers: Sequence[Server] = [server]

    def call(self, work: Work) -> Call:
        """Returns a ModelInfer, or a ModelStreamInfer."""
        model = self._models[work.model]
        message = infer_request(model, work.rows)

        def read(reply: bytes) -> Predictions:
            return model.predictions(_scores(_response(reply, work.stream)))

        url = f"http://{self._address}/{METHOD}"
        if work.stream:
            return Call("grpc", f"{url}/ModelStreamInfer", [message] * STREAM_MESSAGES, read)
        return Call("grpc", f"{url}/ModelInfer", [message], read)


def infer_request(model: Model, count: int) -> bytes:
    """Returns a ModelInferRequest of the model's first rows."""
    rows = model.rows(count)
    tensor = service_pb2.ModelInferRequest.InferInputTensor(name="features", datatype="FP32", shape=rows.shape)
    request = service_pb2.ModelInferRequest(model_name=model.name, inputs=[tensor], raw_input_contents=[rows.tobytes()])
    message: bytes = request.SerializeToString()
    return message


def _response(reply: bytes, stream: bool) -> service_pb2.ModelInferResponse:
    if not stream:
        return service_pb2.ModelInferResponse.FromString(reply)
    answer = service_pb2.ModelStreamInferResponse.FromString(reply)
    if answer.error_message:
        raise ValueError(answer.error_message)
    return answer.infer_response


def _scores(response: service_pb2.ModelInferResponse) -> Predictions:
    return np.frombuffer(response.raw_output_contents[0], "<f4").reshape(response.outputs[0].shape)
