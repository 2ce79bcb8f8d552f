"""The models behind Ray Serve's gRPC proxy, with FitServe's own messages and Serve's dynamic batching.

`python app.py MODELS PORT HTTP_PORT`: the directory with forest.joblib, light.joblib and xgboost.json, the port of gRPC, and
one for the proxy's HTTP, which it always serves too.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import joblib
import numpy as np
import ray
from fitserve.v1.data_pb2 import DATA_TYPE_FP32, DATA_TYPE_INT64, Tensor
from fitserve.v1.prediction_service_pb2 import PredictRequest, PredictResponse
from numpy.typing import NDArray
from ray import serve
from ray.serve.config import gRPCOptions
from xgboost import XGBRegressor

MOST_CALLS = 64
WAIT_SECONDS = 0.005
SERVICER = "fitserve.v1.prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server"


class Models:
    """All models in one deployment."""

    def __init__(self, directory: str) -> None:
        """Loads the models."""
        self._models = {name: joblib.load(Path(directory, f"{name}.joblib")) for name in ("forest", "light")}
        self._models["xgboost"] = XGBRegressor()
        self._models["xgboost"].load_model(Path(directory, "xgboost.json"))

    async def Predict(self, request: PredictRequest) -> PredictResponse:
        """Answers one call."""
        tensor = request.inputs.tensor
        predictions = await self._predict((request.model, np.frombuffer(tensor.data, "<f4").reshape(tensor.shape)))
        dtype = DATA_TYPE_INT64 if predictions.dtype.kind == "i" else DATA_TYPE_FP32
        reply = Tensor(dtype=dtype, shape=predictions.shape, data=predictions.tobytes())
        return PredictResponse(model=request.model, prediction_tensor=reply)

    @serve.batch(max_batch_size=MOST_CALLS, batch_wait_timeout_s=WAIT_SECONDS)
    async def _predict(self, calls: list[tuple[str, NDArray[np.float32]]]) -> list[NDArray[np.generic]]:
        """Predicts the rows of several calls, all of one model: nobody mixes them here."""
        rows = np.concatenate([features for _, features in calls])
        predictions = self._models[calls[0][0]].predict(rows)
        return np.split(predictions, np.cumsum([len(features) for _, features in calls])[:-1])


def main(directory: str, port: int, http_port: int) -> None:
    """Serves until it is ended."""
    ray.init(num_cpus=2, include_dashboard=False, object_store_memory=100 * 2**20, _node_ip_address="127.0.0.1")
    serve.start(
        logging_config={"enable_access_log": False},
        http_options={"host": "127.0.0.1", "port": http_port},
        grpc_options=gRPCOptions(port=port, grpc_servicer_functions=[SERVICER]),
    )
    deployment = serve.deployment(max_ongoing_requests=1000, logging_config={"enable_access_log": False})
    serve.run(deployment(Models).bind(directory))
    while True:
        time.sleep(3600)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
