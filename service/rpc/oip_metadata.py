"""What the Open Inference Protocol tells of the server and its models."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from tritonclient.grpc import service_pb2 as pb

from service import __version__
from service.domain.entities import INPUT, OUTPUT, Manifest, VersionState
from service.domain.loaded import LoadedVersion
from service.domain.model_entry import ModelEntry
from service.domain.usage import Tally
from service.rpc.oip_tensors import DATATYPE

SERVER_NAME = "fitserve"
EXTENSIONS = ("classification", "model_configuration", "model_repository", "statistics")
"""Triton's names of what is served beyond the protocol's own calls."""

STATES = {
    VersionState.STORED: "UNAVAILABLE",
    VersionState.LOADING: "LOADING",
    VersionState.LOADED: "READY",
    VersionState.UNLOADING: "UNLOADING",
    VersionState.FAILED: "UNAVAILABLE",
}
"""Triton's names of the states."""

READY = STATES[VersionState.LOADED]

Tensor = pb.ModelMetadataResponse.TensorMetadata


def server_metadata() -> pb.ServerMetadataResponse:
    """Returns what the server is."""
    return pb.ServerMetadataResponse(name=SERVER_NAME, version=__version__, extensions=EXTENSIONS)


def model_metadata(manifest: Manifest, loaded: Iterable[int]) -> pb.ModelMetadataResponse:
    """Returns what a loaded version takes and gives, and the versions that are loaded; -1 is the number of rows."""
    signature = manifest.signature
    if signature.inputs:
        return pb.ModelMetadataResponse(
            name=manifest.model,
            versions=map(str, loaded),
            platform=manifest.backend,
            inputs=[Tensor(name=one.name, datatype=one.dtype, shape=one.shape) for one in signature.inputs],
            outputs=[Tensor(name=one.name, datatype=one.dtype, shape=one.shape) for one in signature.outputs],
        )
    return pb.ModelMetadataResponse(
        name=manifest.model,
        versions=map(str, loaded),
        platform=manifest.backend,
        inputs=[Tensor(name=INPUT, datatype=DATATYPE, shape=(-1, *signature.shape))],
        outputs=[Tensor(name=OUTPUT, datatype=DATATYPE, shape=(-1, manifest.score_count))],
    )


def index_of(entry: ModelEntry) -> Iterator[pb.RepositoryIndexResponse.ModelIndex]:
    """Yields the versions of a model with their states."""
    for version, stored in sorted(entry.versions.items()):
        state = entry.state(version)
        reason = "not loaded" if state == VersionState.STORED else ""
        if state == VersionState.FAILED and stored.error is not None:
            reason = stored.error.message
        yield pb.RepositoryIndexResponse.ModelIndex(
            name=entry.name, version=str(version), state=STATES[state], reason=reason
        )


def model_statistics(loaded: LoadedVersion) -> pb.ModelStatistics:
    """Returns what a version has done since its load.

    `success` and `fail` count callers' requests, by whichever protocol they came; `inference_count` counts rows,
    `execution_count` the batches that went to Triton. `queue` is the wait for a batch, `compute_infer` all the time
    that it was with Triton. perf_analyzer wants the two other parts of that time to be counted as often, so they are, as
    taking no time.
    """
    usage = loaded.usage
    return pb.ModelStatistics(
        name=loaded.manifest.model,
        version=str(loaded.manifest.version),
        last_inference=usage.last_inference_ms,
        inference_count=usage.rows,
        execution_count=usage.executions,
        inference_stats=pb.InferStatistics(
            success=_duration(usage.success),
            fail=_duration(usage.failure),
            queue=_duration(usage.queue),
            **_parts(usage.compute),
        ),
        batch_stats=[
            pb.InferBatchStatistics(batch_size=rows, **_parts(tally)) for rows, tally in sorted(usage.batches.items())
        ],
    )


def _parts(compute: Tally) -> dict[str, pb.StatisticDuration]:
    nothing = pb.StatisticDuration(count=compute.count)
    return {"compute_input": nothing, "compute_infer": _duration(compute), "compute_output": nothing}


def _duration(tally: Tally) -> pb.StatisticDuration:
    return pb.StatisticDuration(count=tally.count, ns=tally.ns)
