"""What is measured, and what is wanted of it: the sections of the benchmark."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import latency, memory, ratios, throughput, trainings
from benchmarks.findings import Finding
from benchmarks.latency import ONE_PROCESS, LatencyFigure, Setting
from benchmarks.ratios import Ratio
from benchmarks.throughput import Comparison, Figure
from benchmarks.work import Work

MLSERVER = ("mlserver", "mlserver-batching", "mlserver-workers", "mlserver-workers-batching")
LIMITS = ("grpc-echo", "grpc-echo-uvloop", "triton")
PEERS = ("fastapi-triton", *MLSERVER, "bentoml", "ray-serve")
EVERYBODY = ("fitserve", ONE_PROCESS, *LIMITS, *PEERS)
LATENCY_SUBJECTS = ("fitserve", *LIMITS, "fastapi-triton", "mlserver", "mlserver-batching", "bentoml")
CLIENTS_SUBJECTS = ("fitserve", ONE_PROCESS, "grpc-echo")

ONE_ROW_FOREST = Work("forest", 1, 256)
ONE_ROW_XGBOOST = Work("xgboost", 1, 256)
MANY_ROWS_LIGHT = Work("light", 256, 32)
STREAMS = {model: Work(model, 256, 1, stream=True) for model in ("xgboost", "forest", "light")}

RATIOS = [
    Ratio("unary_vs_grpc_echo", ONE_ROW_XGBOOST, ["grpc-echo"], 0.75),
    Ratio("unary_vs_grpc_echo_uvloop", ONE_ROW_XGBOOST, ["grpc-echo-uvloop"]),
    Ratio("unary_vs_triton", ONE_ROW_XGBOOST, ["triton"]),
    Ratio("unary_vs_fastapi_triton", ONE_ROW_XGBOOST, ["fastapi-triton"], 2.5),
    Ratio("unary_vs_1_process", ONE_ROW_XGBOOST, [ONE_PROCESS]),
    Ratio("unary_1_process_vs_grpc_echo", ONE_ROW_XGBOOST, ["grpc-echo"], ours=ONE_PROCESS),
    Ratio("unary_1_process_vs_grpc_echo_uvloop", ONE_ROW_XGBOOST, ["grpc-echo-uvloop"], ours=ONE_PROCESS),
    Ratio("unary_1_process_vs_fastapi_triton", ONE_ROW_XGBOOST, ["fastapi-triton"], ours=ONE_PROCESS),
    Ratio("rows256_1_process_vs_fastapi_triton", MANY_ROWS_LIGHT, ["fastapi-triton"], ours=ONE_PROCESS),
    Ratio("rows256_vs_fastapi_triton", MANY_ROWS_LIGHT, ["fastapi-triton"], 5.0),
    Ratio("unary_vs_mlserver_xgboost", ONE_ROW_XGBOOST, MLSERVER, 6.0),
    Ratio("unary_vs_mlserver_forest", ONE_ROW_FOREST, MLSERVER, 25.0),
    Ratio("unary_1_process_vs_mlserver_xgboost", ONE_ROW_XGBOOST, MLSERVER, ours=ONE_PROCESS),
    Ratio("unary_1_process_vs_mlserver_forest", ONE_ROW_FOREST, MLSERVER, ours=ONE_PROCESS),
    Ratio("unary_vs_bentoml", ONE_ROW_XGBOOST, ["bentoml"]),
    Ratio("unary_vs_ray_serve", ONE_ROW_XGBOOST, ["ray-serve"]),
    Ratio("stream256_vs_triton", STREAMS["xgboost"], ["triton"], 0.95),
    Ratio("stream256_vs_triton_forest", STREAMS["forest"], ["triton"]),
    Ratio("stream256_vs_triton_light", STREAMS["light"], ["triton"]),
]

_UNARY = [Comparison("unary", work, EVERYBODY) for work in (ONE_ROW_XGBOOST, ONE_ROW_FOREST, MANY_ROWS_LIGHT)]
_STREAM = [Comparison("stream", work, ("fitserve", "triton")) for work in STREAMS.values()]
_SWEPT = [
    Work(model, rows, in_flight)
    for model in ("xgboost", "forest", "cnn")
    for rows in (1, 32, 256)
    for in_flight in (1, 32, 256)
]
_SWEEP = [Comparison("sweep", work, ("fitserve", "grpc-echo", "triton", "fastapi-triton")) for work in _SWEPT]


@dataclass
class Found:
    """What sections have found."""

    figures: list[Figure] = field(default_factory=list)
    latencies: list[LatencyFigure] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    def add(self, more: Found) -> None:
        """Takes what another section has found."""
        self.figures += more.figures
        self.latencies += more.latencies
        self.findings += more.findings


@dataclass(frozen=True)
class Section:
    """One part of the benchmark.

    Attributes:
        about: What it measures, for people.
        subjects: Who must be there for it.
    """

    about: str
    subjects: Sequence[str]
    run: Callable[[Setting, Path], Found]


def _throughput(comparisons: Sequence[Comparison], share: float = 1.0) -> Callable[[Setting, Path], Found]:
    """Returns a section's run; `share` is that of the rounds and seconds which it takes."""

    def run(setting: Setting, directory: Path) -> Found:
        rounds, seconds = max(1, round(setting.rounds * share)), max(1.0, setting.seconds * share)
        figures = throughput.measure(setting.stage, comparisons, rounds, seconds, setting.say)
        findings = [ratios.find(ratio, figures) for ratio in RATIOS]
        return Found(figures=figures, findings=[finding for finding in findings if finding])

    return run


def _latency(
    measure: Callable[[Setting], tuple[list[LatencyFigure], list[Finding]]],
) -> Callable[[Setting, Path], Found]:
    def run(setting: Setting, directory: Path) -> Found:
        figures, findings = measure(setting)
        return Found(latencies=figures, findings=findings)

    return run


SECTIONS: dict[str, Section] = {
    "unary": Section("one row and many rows a call, as many calls as go", EVERYBODY, _throughput(_UNARY)),
    "stream": Section("streams of 256 rows a message", ["fitserve", "triton"], _throughput(_STREAM)),
    "lone": Section("one request at a time", LATENCY_SUBJECTS, _latency(lambda s: latency.lone(s, LATENCY_SUBJECTS))),
    "half": Section(
        "latency at half of the rate that each can take",
        LATENCY_SUBJECTS,
        _latency(lambda s: latency.half_rate(s, LATENCY_SUBJECTS)),
    ),
    "training": Section("latency while all training cores train", ["fitserve"], _latency(latency.while_training)),
    "fit": Section(
        "what a Fit costs beside the training, and several at the same time",
        ["fitserve"],
        lambda s, directory: Found(findings=trainings.measure(directory / "trainings", s.rounds, s.say)),
    ),
    "clients": Section(
        "1,400 clients with an image a second each",
        CLIENTS_SUBJECTS,
        _latency(lambda s: latency.many_clients(s, CLIENTS_SUBJECTS)),
    ),
    "sustained": Section("500 calls a second for a minute", ["fitserve"], _latency(latency.sustained)),
    "memory": Section(
        "the service's memory over 1,000,000 predictions",
        ["fitserve"],
        lambda s, directory: Found(findings=memory.measure(s.stage, s.say)),
    ),
    "sweep": Section(
        "every model, 1, 32 and 256 rows a call, 1, 32 and 256 in flight; a third of the rounds and seconds",
        ("fitserve", "grpc-echo", "triton", "fastapi-triton"),
        _throughput(_SWEEP, share=1 / 3),
    ),
}
