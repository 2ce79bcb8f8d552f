"""Models that an operator has placed in the model directory: a config.pbtxt and code of their own, without a manifest.

Calls load and use them; nothing of FitServe ever writes into their directories or deletes them.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from google.protobuf import json_format, text_format
from tritonclient.grpc.model_config_pb2 import DataType, ModelConfig, ModelInput, ModelInstanceGroup, ModelOutput

from service.adapters.layout import CONFIG_FILE, MANIFEST_FILE, version_number
from service.adapters.triton_config import TENSOR_TYPES, TritonModelConfig
from service.domain.entities import Manifest, Parity, Signature, StoredVersion
from service.domain.errors import Reason, ServiceError
from service.domain.named_tensors import TensorSpec

_ROOT = Path(__file__).resolve().parents[2]

REQUIREMENTS_FILE = "requirements.txt"

MAX_CONFIG_BYTES = 2**20
"""A larger config.pbtxt is no such file."""


def is_of_operator(directory: Path) -> bool:
    """Whether a model's directory is an operator's: no version in it has a manifest, and its configuration is not ours."""
    try:
        if any((directory / name / MANIFEST_FILE).exists() for name in os.listdir(directory)):
            return False
        text = _text_of(directory)
    except OSError:  # it is not there, has no configuration, or cannot be read
        return False
    except ValueError:
        return True
    try:
        TritonModelConfig.from_text(text)
    except (ValueError, IndexError):  # also where a length is missing that ours always have
        return bool(text.strip())
    return False


def versions_in(directory: Path) -> list[StoredVersion]:
    """Returns the versions of an operator's model, with what is wrong with them if its configuration cannot be served."""
    numbers = sorted(number for name in os.listdir(directory) if (number := version_number(name)))
    found = []
    for version in numbers:
        try:
            found.append(StoredVersion(directory.name, version, manifest_of(directory, version), of_operator=True))
        except ServiceError as error:
            found.append(StoredVersion(directory.name, version, None, error, of_operator=True))
    return found


def manifest_of(directory: Path, version: int) -> Manifest:
    """Returns what the configuration of an operator's model says of a version.

    Raises:
        ServiceError: LOAD_FAILED; it is no configuration, or one that cannot be served.
    """
    model = directory.name
    try:
        text = _text_of(directory)
        config = _parsed(text)
        signature = _signature(config, model)
        files = [file.stat() for file in (directory / str(version)).iterdir() if file.is_file()]
        files.append((directory / CONFIG_FILE).stat())
    except OSError as error:
        raise _unfit(model, version, f"its files cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise _unfit(model, version, str(error)) from error
    return Manifest(
        model=model,
        version=version,
        job="",
        algorithm="",
        parameters={},
        signature=signature,
        backend=config.backend or config.platform,
        metrics={},
        parity=Parity(0.0, 0.0, 0),
        dataset="",
        train_rows=0,
        validation_rows=0,
        library_versions={},
        create_time=datetime.fromtimestamp(max(file.st_mtime for file in files), UTC),
        size_bytes=sum(file.st_size for file in files[:-1]),
        own_config=text,
    )


def config_json(text: str, model: str, versions: Sequence[int], instances: int) -> str:
    """Returns an operator's configuration as JSON that serves exactly these versions, in so many copies each."""
    config = _parsed(text)
    config.name = model
    del config.version_policy.specific.versions[:]
    config.version_policy.specific.versions.extend(versions)
    if not config.instance_group and config.platform != "ensemble":
        config.instance_group.add(kind=ModelInstanceGroup.KIND_CPU)
    for group in config.instance_group:
        group.count = instances
    return json_format.MessageToJson(config, preserving_proto_field_name=True, indent=None)


async def check_requirements(python: Path, directory: Path) -> None:
    """Checks that the embedded Triton's environment has what an operator's model needs.

    Args:
        python: The interpreter of that environment.

    Raises:
        ServiceError: LOAD_FAILED, naming what is missing and the command that installs it.
    """
    if not (directory / REQUIREMENTS_FILE).is_file():
        return
    process = await asyncio.create_subprocess_exec(
        python,
        "-m",
        "triton_runtime",
        "missing",
        directory,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": str(_ROOT)},
    )
    missing = (await process.communicate())[0].decode().split("\n")[:-1]
    if missing or process.returncode:
        what = f"lacks {', '.join(missing)}" if missing else f"cannot read its {REQUIREMENTS_FILE}"
        raise ServiceError(
            Reason.LOAD_FAILED,
            f"Triton's environment {what}, which model {directory.name!r} needs; on the server, run "
            f"`python -m triton_runtime install MODEL_DIR/{directory.name}` with Triton's Python (TRITON_PYTHON), or "
            f"`make operator-requirements`",
            {"model": directory.name, "missing": ",".join(missing)},
        )


def _text_of(directory: Path) -> str:
    """Reads a config.pbtxt. Raises OSError; ValueError if it is too large, or no text."""
    with open(directory / CONFIG_FILE, "rb") as file:
        data = file.read(MAX_CONFIG_BYTES + 1)
    if len(data) > MAX_CONFIG_BYTES:
        raise ValueError(f"its {CONFIG_FILE} is larger than {MAX_CONFIG_BYTES} bytes")
    return data.decode()


def _parsed(text: str) -> ModelConfig:
    """Returns a configuration. Raises ValueError; Triton's message has the line of the mistake."""
    try:
        return text_format.Parse(text, ModelConfig())
    except text_format.ParseError as error:
        raise ValueError(f"its {CONFIG_FILE} is no configuration of Triton: {error}") from error


def _signature(config: ModelConfig, model: str) -> Signature:
    """Returns what a configuration says of inputs and outputs.

    Raises:
        ValueError: It leaves something open, or asks for what is not served.
    """
    if config.name and config.name != model:
        raise ValueError(f"its {CONFIG_FILE} has the name {config.name!r}, its directory {model!r}; give both one name")
    if not config.backend and not config.platform:
        raise ValueError(f'its {CONFIG_FILE} has no backend; write for instance `backend: "python"`')
    if config.model_transaction_policy.decoupled:
        raise ValueError("it is decoupled: any number of answers to a request is not served")
    if config.HasField("sequence_batching"):
        raise ValueError("it has sequence_batching: requests that belong together are not served")
    if not config.input or not config.output:
        raise ValueError(f"its {CONFIG_FILE} names no {'output' if config.input else 'input'}; name all of them")
    has_rows = config.max_batch_size > 0
    inputs = tuple(_spec(tensor, has_rows, tensor.optional) for tensor in config.input)
    outputs = tuple(_spec(tensor, has_rows, False) for tensor in config.output)
    return Signature.of_tensors(inputs, outputs, config.max_batch_size)


def _spec(tensor: ModelInput | ModelOutput, has_rows: bool, optional: bool) -> TensorSpec:
    dtype = TENSOR_TYPES.get(DataType.Name(tensor.data_type))
    if not tensor.name or dtype is None:
        raise ValueError(f"a tensor of its {CONFIG_FILE} ({tensor.name!r}) has no name, or a type that is not served")
    if any(length < -1 for length in tensor.dims):
        raise ValueError(f"tensor {tensor.name!r} of its {CONFIG_FILE} has a length below -1")
    return TensorSpec(tensor.name, dtype, ((-1,) if has_rows else ()) + tuple(tensor.dims), optional)


def _unfit(model: str, version: int, problem: str) -> ServiceError:
    return ServiceError(
        Reason.LOAD_FAILED,
        f"version {version} of model {model!r}, which an operator has placed, cannot be served: {problem}",
        {"model": model, "version": str(version)},
    )
