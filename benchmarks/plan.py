"""What is measured, and what is wanted of it: the parts of the benchmark and their ratios."""

from __future__ import annotations

from benchmarks.ratios import Ratio
from benchmarks.throughput import Comparison
from benchmarks.work import Work

MLSERVER = ("mlserver", "mlserver-batching", "mlserver-workers", "mlserver-workers-batching")
LIMITS = ("grpc-echo", "grpc-echo-uvloop", "triton")
PEERS = ("fastapi-triton", *MLSERVER, "bentoml", "ray-serve")
EVERYBODY = ("fitserve", *LIMITS, *PEERS)

ONE_ROW_FOREST = Work("forest", 1, 256)
ONE_ROW_XGBOOST = Work("xgboost", 1, 256)
MANY_ROWS_LIGHT = Work("light", 256, 32)
STREAMS = {model: Work(model, 256, 1, stream=True) for model in ("xgboost", "forest", "light")}

COMPARISONS = [
    Comparison("unary", ONE_ROW_XGBOOST, EVERYBODY),
    Comparison("unary", ONE_ROW_FOREST, EVERYBODY),
    Comparison("unary", MANY_ROWS_LIGHT, EVERYBODY),
    *(Comparison("stream", work, ("fitserve", "triton")) for work in STREAMS.values()),
]

RATIOS = [
    Ratio("unary_vs_grpc_echo", ONE_ROW_XGBOOST, ["grpc-echo"], 0.75),
    Ratio("unary_vs_grpc_echo_uvloop", ONE_ROW_XGBOOST, ["grpc-echo-uvloop"]),
    Ratio("unary_vs_triton", ONE_ROW_XGBOOST, ["triton"]),
    Ratio("unary_vs_fastapi_triton", ONE_ROW_XGBOOST, ["fastapi-triton"], 2.5),
    Ratio("rows256_vs_fastapi_triton", MANY_ROWS_LIGHT, ["fastapi-triton"], 5.0),
    Ratio("unary_vs_mlserver_xgboost", ONE_ROW_XGBOOST, MLSERVER, 6.0),
    Ratio("unary_vs_mlserver_forest", ONE_ROW_FOREST, MLSERVER, 25.0),
    Ratio("stream256_vs_triton", STREAMS["xgboost"], ["triton"], 0.95),
    Ratio("stream256_vs_triton_forest", STREAMS["forest"], ["triton"]),
    Ratio("stream256_vs_triton_light", STREAMS["light"], ["triton"]),
]
