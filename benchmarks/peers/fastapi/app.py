"""The usual way to put a web API before Triton: FastAPI with tritonclient's asyncio client.

`TRITON` is Triton's host:port. Rows come as JSON and are checked by pydantic, as FastAPI's documentation advises; the one
client is made at the start and shared by all requests.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import tritonclient.grpc.aio as triton
from fastapi import FastAPI
from pydantic import BaseModel

CLASSIFIERS = ("forest", "light", "cnn")


class Rows(BaseModel):
    """Rows of numbers."""

    rows: list[list[float]]


class Images(BaseModel):
    """Images of [channels, height, width]."""

    rows: list[list[list[list[float]]]]


class Predictions(BaseModel):
    """A prediction a row."""

    predictions: list[int] | list[float]


_client: dict[str, triton.InferenceServerClient] = {}


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with triton.InferenceServerClient(os.environ["TRITON"]) as client:
        _client["triton"] = client
        yield


app = FastAPI(lifespan=_lifespan)


@app.post("/rows/{model}")
async def predict_rows(model: str, request: Rows) -> Predictions:
    """Predicts rows."""
    return await _predict(model, request.rows)


@app.post("/images/{model}")
async def predict_images(model: str, request: Images) -> Predictions:
    """Predicts images."""
    return await _predict(model, request.rows)


async def _predict(model: str, rows: list[Any]) -> Predictions:  # Any: lists of one depth or another
    features = np.array(rows, np.float32)
    tensor = triton.InferInput("features", list(features.shape), "FP32")
    tensor.set_data_from_numpy(features)
    result = await _client["triton"].infer(model, [tensor], outputs=[triton.InferRequestedOutput("scores")])
    scores = result.as_numpy("scores")
    predictions = scores.argmax(1) if model in CLASSIFIERS else scores[:, 0]
    return Predictions(predictions=predictions.tolist())
