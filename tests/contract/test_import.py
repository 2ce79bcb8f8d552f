"""ImportModel over a real channel: what comes becomes a version, or leaves nothing behind."""

from __future__ import annotations

import hashlib
import io
import signal
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import catboost
import fitserve
import grpc
import lightgbm
import numpy as np
import onnx
import psutil
import pytest
import skops.io
import torch
import xgboost
from fitserve import errors
from fitserve.v1 import model_pb2, model_service_pb2, training_job_pb2
from onnx import TensorProto, helper, numpy_helper
from sklearn.linear_model import LinearRegression

from tests import damaged_estimators
from tests.contract.test_training import SPECIES, X
from tests.contract.wire import Refusal, Stubs, error_of, stubs_of
from tests.service_process import ServiceProcess

Request = model_service_pb2.ImportModelRequest
ONNX = model_service_pb2.MODEL_FORMAT_ONNX
XGBOOST = model_service_pb2.MODEL_FORMAT_XGBOOST
LABELS = ["setosa", "versicolor", "virginica"]
NUMBERS = np.array([LABELS.index(species) for species in SPECIES])
FILE_BYTES = 4_000_000
HOSTILE = {
    "nested lists": b"[" * 1_000_000,
    "nested objects": b'{"learner":' * 300_000,
    "a pickle": b"\x80\x04K\x00.",
    "zeros": bytes(1000),
}


@pytest.fixture(scope="module")
def importer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    """A service with narrow limits for imports."""
    limits = {"IMPORT_FILE_BYTES": str(FILE_BYTES), "IMPORT_MEMORY_BYTES": str(2**29), "IMPORT_SECONDS": "10"}
    limits["IMPORT_TORCHSCRIPT"] = "true"
    temporary = tmp_path_factory.mktemp("temporary")
    process = ServiceProcess(tmp_path_factory.mktemp("importer"), TMPDIR=str(temporary), **limits)
    running = sorted(temporary.rglob("*"))
    yield process
    wait_until(lambda: sorted(temporary.rglob("*")) == running)  # what Triton has there, and no more
    assert process.stop() == 0


@pytest.fixture
def client(importer: ServiceProcess) -> Iterator[fitserve.Client]:
    with fitserve.Client(importer.address) as client:
        yield client


@pytest.fixture
def stubs(importer: ServiceProcess) -> Iterator[Stubs]:
    with grpc.insecure_channel(importer.address) as channel:
        yield stubs_of(channel)


@pytest.fixture
def nothing_is_left(importer: ServiceProcess) -> Iterator[None]:
    """The model directory holds after the test what it held before."""
    before = on_disk(importer)
    yield
    wait_until(lambda: on_disk(importer) == before)


def on_disk(service: ServiceProcess) -> dict[str, bytes]:
    """Returns all files and directories of the model directory but those of the database."""
    found = {}
    for path in sorted(service.model_dir.rglob("*")):
        name = str(path.relative_to(service.model_dir))
        if not name.startswith(".fitserve/fitserve.db"):
            found[name] = path.read_bytes() if path.is_file() else b""
    return found


def wait_until(holds: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def boosted(**parameters: object) -> tuple[xgboost.Booster, bytes]:
    wanted = {"objective": "multi:softprob", "num_class": 3, "nthread": 1} | parameters
    booster = xgboost.train(wanted, xgboost.DMatrix(X, NUMBERS), 5)
    return booster, bytes(booster.save_raw("ubj"))


def graph_of(nodes: Sequence[onnx.NodeProto], **constants: np.ndarray) -> bytes:
    """Returns an ONNX model from `x` to `y`."""
    graph = helper.make_graph(
        nodes,
        "given",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 1])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


def endless() -> bytes:
    """A model that computes for ever."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Tanh", ["carried"], ["next"])],
        "body",
        [
            helper.make_tensor_value_info("round", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("carried", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, None),
        ],
    )
    nodes = [
        helper.make_node("ReduceSum", ["x", "axes"], ["sum"]),
        helper.make_node("Loop", ["rounds", "", "sum"], ["y"], body=body),
    ]
    return graph_of(nodes, axes=np.array([1]), rounds=np.array(2**60))


def greedy() -> bytes:
    """A model that wants a terabyte."""
    nodes = [
        helper.make_node("ReduceSum", ["x", "axes"], ["sum"]),
        helper.make_node("ConstantOfShape", ["shape"], ["much"]),
        helper.make_node("ReduceMax", ["much"], ["most"], keepdims=0),
        helper.make_node("Add", ["sum", "most"], ["y"]),
    ]
    return graph_of(nodes, axes=np.array([1]), shape=np.array([2**38]))


VALUE = {"format": ONNX, "signature": model_pb2.Signature(task=training_job_pb2.TASK_REGRESSION)}


def messages(content: bytes, **description: object) -> Iterator[Request]:
    yield Request(description=model_service_pb2.ImportDescription(**description))  # type: ignore[arg-type]
    for start in range(0, len(content), 1_000_000):
        yield Request(content=content[start : start + 1_000_000])


def refused(stubs: Stubs, content: bytes, **description: object) -> Refusal:
    return error_of(lambda: stubs.models.ImportModel(messages(content, **description), timeout=60))


def children(service: ServiceProcess) -> list[psutil.Process]:
    """Returns the processes that import."""
    return [process for process in service.family() if process_name(process).startswith("import:")]


def process_name(process: psutil.Process) -> str:
    try:
        return Path(f"/proc/{process.pid}/comm").read_text()
    except OSError:
        return ""


def test_an_imported_model_predicts_what_its_library_predicts(client: fitserve.Client, name: str) -> None:
    booster, content = boosted()
    model = client.import_model(name, content, format="xgboost", classes=LABELS, load=True)
    assert (model.state, model.serving_version) == ("LOADED", 1)
    (version,) = model.versions
    assert (version.algorithm, version.job, version.dataset, version.metrics) == ("", "", "", {})
    assert version.imported == fitserve.ImportedFile(
        "xgboost", f"sha256:{hashlib.sha256(content).hexdigest()}", len(content)
    )
    assert version.parity is not None
    assert version.parity.max_difference < 1e-5
    answer = client.predict_proba(name, X)
    np.testing.assert_allclose(answer.probabilities, booster.predict(xgboost.DMatrix(X)), atol=1e-5)
    assert set(answer.predictions) == set(LABELS)


async def test_the_async_client_imports_too(importer: ServiceProcess, name: str, tmp_path: Path) -> None:
    (tmp_path / "model.ubj").write_bytes(boosted()[1])
    async with fitserve.AsyncClient(importer.address) as client:
        assert (await client.import_model(name, tmp_path / "model.ubj")).latest_version == 1
        with pytest.raises(errors.AlreadyExists):
            await client.import_model(name, tmp_path / "model.ubj")
        with pytest.raises(FileNotFoundError):
            await client.import_model(name, tmp_path / "other.ubj")


def test_a_new_version_is_made_if_that_is_wanted_and_keeps_the_signature(
    client: fitserve.Client, name: str, nothing_is_left: None
) -> None:
    client.fit(name, X, SPECIES, algorithm="logistic_regression", queue=True).wait(60)
    with pytest.raises(errors.AlreadyExists) as exists:
        client.import_model(name, boosted()[1], format="xgboost")
    assert "new_version" in exists.value.message
    model = client.import_model(name, boosted()[1], format="xgboost", new_version=True)
    assert [version.algorithm for version in model.versions] == ["logistic_regression", ""]
    assert model.versions[1].signature is not None
    assert model.versions[1].signature.classes == tuple(LABELS)
    narrow = xgboost.train({"objective": "multi:softprob", "num_class": 3}, xgboost.DMatrix(X[:, :3], NUMBERS), 2)
    with pytest.raises(errors.InvalidArgument, match="shape"):
        client.import_model(name, bytes(narrow.save_raw("ubj")), format="xgboost", new_version=True)
    assert client.model(name).latest_version == 2
    client.remove(name)


def test_a_version_that_cannot_be_loaded_is_imported_all_the_same(
    start_service: Callable[..., ServiceProcess],
) -> None:
    service = start_service(MAX_LOADED_MODELS="1")
    with fitserve.Client(service.address) as client:
        client.import_model("first", boosted()[1], format="xgboost", load=True)
        with pytest.raises(errors.ResourceExhausted) as full:
            client.import_model("second", boosted()[1], format="xgboost", load=True)
        assert full.value.reason == "TOO_MANY_LOADED_MODELS"
        assert "imported" in full.value.__notes__[0]
        assert client.model("second").state == "STORED"


@pytest.mark.parametrize(
    ("description", "field"),
    [
        ({"model": "Bad Name", "format": ONNX}, "description.model"),
        ({"model": "m"}, "description.format"),
        ({"model": "m", "format": 99}, "description.format"),
        ({"model": "m", "format": ONNX, "digest": "md5:1"}, "description.digest"),
        ({"model": "m", "format": ONNX, "trusted_types": ["a"]}, "description.trusted_types"),
    ],
)
def test_a_bad_description_is_refused_before_the_file_comes(
    stubs: Stubs, description: dict[str, object], field: str, nothing_is_left: None
) -> None:
    refusal = refused(stubs, b"", **description)
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
    assert refusal.metadata["field"] == field


def test_the_description_comes_first_and_only_once(stubs: Stubs, nothing_is_left: None) -> None:
    description = Request(description=model_service_pb2.ImportDescription(model="m", format=ONNX))
    for parts, field in (([], "description"), ([Request(content=b"1")], "description"), ([description] * 2, "content")):
        refusal = error_of(lambda parts=parts: stubs.models.ImportModel(iter(parts)))
        assert (refusal.code, refusal.metadata["field"]) == (grpc.StatusCode.INVALID_ARGUMENT, field)


def test_an_empty_file_and_one_with_another_digest_are_refused(stubs: Stubs, nothing_is_left: None) -> None:
    assert refused(stubs, b"", model="m", format=ONNX).metadata["field"] == "content"
    content = boosted()[1]
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    refusal = refused(stubs, content[:-1], model="m", format=XGBOOST, digest=digest)
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.DATA_LOSS, "DIGEST_MISMATCH")
    assert refusal.metadata["expected"] == digest


def test_a_file_beyond_the_limit_is_refused_while_it_comes(stubs: Stubs, nothing_is_left: None) -> None:
    refusal = refused(stubs, bytes(FILE_BYTES + 1), model="m", format=ONNX)
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "MESSAGE_TOO_LARGE")
    assert refusal.metadata["limit_bytes"] == str(FILE_BYTES)


def cbm() -> bytes:
    model = catboost.CatBoostClassifier(iterations=5, thread_count=1, allow_writing_files=False, logging_level="Silent")
    with tempfile.NamedTemporaryFile() as file:
        model.fit(X, NUMBERS).save_model(file.name)
        return file.read()


def lightgbm_text() -> bytes:
    rows = lightgbm.Dataset(X, NUMBERS)
    options = {"objective": "multiclass", "num_class": 3, "verbosity": -1, "num_threads": 1}
    return lightgbm.train(options, rows, 5).model_to_string().encode()


def script() -> bytes:
    content = io.BytesIO()
    with warnings.catch_warnings(action="ignore"):
        torch.jit.save(torch.jit.script(torch.nn.Linear(4, 1).eval()), content)
    return content.getvalue()


FILES: dict[str, Callable[[], bytes]] = {
    "ONNX": lambda: graph_of(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], w=np.arange(4, dtype=np.float32).reshape(4, 1)
    ),
    "XGBOOST": lambda: boosted()[1],
    "LIGHTGBM": lightgbm_text,
    "CATBOOST": cbm,
    "TORCHSCRIPT": script,
    "SKOPS": lambda: skops.io.dumps(LinearRegression().fit(X, NUMBERS)),
}
SAID = {
    "ONNX": model_pb2.Signature(task=training_job_pb2.TASK_REGRESSION),
    "TORCHSCRIPT": model_pb2.Signature(task=training_job_pb2.TASK_REGRESSION, shape=[4]),
}
THE_FILES_FAULT = (
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.FAILED_PRECONDITION,
)


@pytest.mark.parametrize("format", FILES)
def test_a_file_that_is_cut_off_anywhere_or_has_a_wrong_byte_is_never_half_imported(
    stubs: Stubs, importer: ServiceProcess, format: str
) -> None:
    content, chance, before = FILES[format](), np.random.default_rng(0), on_disk(importer)
    wanted = {"model": "m", "format": f"MODEL_FORMAT_{format}", "signature": SAID.get(format)}
    flips = [(place, content[place] ^ 0xFF) for place in chance.integers(0, len(content), 12)]
    changed = [content[:place] + bytes([byte]) + content[place + 1 :] for place, byte in flips]
    for cut in (content[: int(len(content) * share)] for share in (0.05, 0.5, 0.95)):
        refusal = refused(stubs, cut, **wanted)
        assert refusal.code in THE_FILES_FAULT, refusal
        assert refusal.metadata.get("field") == "content"
    for file in changed:
        try:
            stubs.models.ImportModel(messages(file, **wanted), timeout=60)
        except grpc.RpcError as error:
            assert error.code() in THE_FILES_FAULT, error  # type: ignore[attr-defined]
            assert "/" not in error.details(), error  # type: ignore[attr-defined]
        else:  # the byte of a weight, or of nothing: it is another model, as good as any
            stubs.models.Remove(model_service_pb2.RemoveRequest(model="m"))
    assert stubs.models.ImportModel(messages(content, **wanted), timeout=60).version == 1
    stubs.models.Remove(model_service_pb2.RemoveRequest(model="m"))
    wait_until(lambda: on_disk(importer) == before)


@pytest.mark.parametrize("kind", [ONNX, XGBOOST], ids=["onnx", "xgboost"])
@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_what_is_no_model_is_refused(stubs: Stubs, kind: int, content: bytes, nothing_is_left: None) -> None:
    refusal = refused(stubs, content, model="m", format=kind)
    assert (refusal.code, refusal.metadata["field"]) == (grpc.StatusCode.INVALID_ARGUMENT, "content")


DAMAGED = (
    "child beyond the nodes",
    "circle",
    "feature beyond the columns",
    "boosting with more trees than outputs",
    "histogram that leaves its nodes for one number",
    "neighbours below the lowest nodes",
    "neighbours with fewer weights of columns",
    "support vectors of one class only",
    "categories in no order",
)


@pytest.mark.parametrize("damage", DAMAGED)
def test_an_estimator_that_would_end_who_predicts_is_refused_and_others_answer_on(
    client: fitserve.Client, stubs: Stubs, name: str, damage: str, nothing_is_left: None
) -> None:
    client.import_model(name, boosted()[1], format="xgboost", classes=LABELS, load=True)
    expected = client.predict(name, X)
    content = damaged_estimators.FILES[damage]()
    trusted = skops.io.get_untrusted_types(data=content)
    refusal = refused(stubs, content, model="m", format=model_service_pb2.MODEL_FORMAT_SKOPS, trusted_types=trusted)
    assert (refusal.code, refusal.metadata["field"]) == (grpc.StatusCode.INVALID_ARGUMENT, "content")
    assert "damaged" in refusal.message
    assert (client.predict(name, X) == expected).all()
    client.remove(name, force=True)


def test_a_file_that_wants_all_memory_gets_none(stubs: Stubs, nothing_is_left: None) -> None:
    refusal = refused(stubs, greedy(), model="m", **VALUE)
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "TRAINER_OOM")
    assert "IMPORT_MEMORY_BYTES" in refusal.message


def test_a_file_that_computes_for_ever_is_ended(stubs: Stubs, importer: ServiceProcess, nothing_is_left: None) -> None:
    refusal = refused(stubs, endless(), model="m", **VALUE)
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "TIME_LIMIT_EXCEEDED")
    wait_until(lambda: not children(importer))


def test_a_killed_process_is_told_and_leaves_nothing(
    stubs: Stubs, importer: ServiceProcess, nothing_is_left: None
) -> None:
    call = stubs.models.ImportModel.future(messages(endless(), model="m", **VALUE))
    wait_until(lambda: bool(children(importer)))
    children(importer)[0].kill()
    refusal = error_of(call.result)
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.INTERNAL, "TRAINER_DIED")


def test_a_caller_who_goes_away_leaves_nothing_and_ends_the_process(
    importer: ServiceProcess, nothing_is_left: None
) -> None:
    with grpc.insecure_channel(importer.address) as channel:
        call = stubs_of(channel).models.ImportModel.future(messages(endless(), model="m", **VALUE))
        wait_until(lambda: bool(children(importer)))
        call.cancel()
    wait_until(lambda: not children(importer), 3)


def test_a_caller_who_goes_away_in_the_middle_of_the_file_leaves_nothing(
    importer: ServiceProcess, nothing_is_left: None
) -> None:
    content, go_on = boosted()[1], threading.Event()

    def parts() -> Iterator[Request]:
        yield from messages(content, model="m", format=XGBOOST)
        go_on.wait(10)

    with grpc.insecure_channel(importer.address) as channel:
        call = stubs_of(channel).models.ImportModel.future(parts())
        wait_until(lambda: any(name.endswith("/imported") for name in on_disk(importer)))
        call.cancel()
    go_on.set()


def test_the_name_is_held_while_a_version_is_made_and_free_while_the_file_comes(
    client: fitserve.Client, stubs: Stubs, importer: ServiceProcess, name: str, nothing_is_left: None
) -> None:
    first = stubs.models.ImportModel.future(messages(endless(), model=name, **VALUE))
    wait_until(lambda: bool(children(importer)))
    for call in (
        lambda: client.import_model(name, boosted()[1], format="xgboost"),
        lambda: client.fit(name, X, SPECIES, algorithm="logistic_regression"),
    ):
        with pytest.raises(errors.Aborted) as held:
            call()
        assert held.value.metadata == {"model": name, "operation": "import"}
    first.cancel()
    wait_until(lambda: not children(importer))
    client.fit(name, X, SPECIES, algorithm="logistic_regression", queue=True).wait(60)
    client.remove(name)


def test_imports_take_turns_beside_the_trainings(
    client: fitserve.Client, stubs: Stubs, importer: ServiceProcess, name: str
) -> None:
    endless_one = stubs.models.ImportModel.future(messages(endless(), model="m", **VALUE))
    wait_until(lambda: bool(children(importer)))
    waiting = stubs.models.ImportModel.future(messages(boosted()[1], model=name, format=XGBOOST))
    assert client.status().training.free_cores == 2
    assert error_of(endless_one.result).reason == "TIME_LIMIT_EXCEEDED"
    assert waiting.result().version == 1


def test_a_stopped_service_tells_the_caller_and_leaves_nothing(start_service: Callable[..., ServiceProcess]) -> None:
    service = start_service(GRACE_SECONDS="0.5")
    with grpc.insecure_channel(service.address) as channel:
        call = stubs_of(channel).models.ImportModel.future(messages(endless(), model="m", **VALUE))
        wait_until(lambda: bool(children(service)))
        service.process.send_signal(signal.SIGTERM)
        refusal = error_of(call.result)
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")
    assert service.process.wait(20) == 0
    assert not [name for name in on_disk(service) if "import" in name]


def test_after_a_crash_the_next_start_clears_what_an_import_left(start_service: Callable[..., ServiceProcess]) -> None:
    service = start_service("crashed")
    with grpc.insecure_channel(service.address) as channel:
        call = stubs_of(channel).models.ImportModel.future(messages(endless(), model="m", **VALUE))
        wait_until(lambda: bool(children(service)))
        left = children(service)
        service.kill()
        assert error_of(call.result).code == grpc.StatusCode.UNAVAILABLE
    psutil.wait_procs(left, 5)
    assert [name for name in on_disk(service) if "import" in name]
    again = start_service("crashed")
    assert not [name for name in on_disk(again) if "import" in name]
    with fitserve.Client(again.address) as client:
        assert client.import_model("m", boosted()[1], format="xgboost").latest_version == 1


def test_a_service_that_trains_nothing_imports_nothing(start_service: Callable[..., ServiceProcess]) -> None:
    service = start_service(TRAINING_CORES="0")
    with grpc.insecure_channel(service.address) as channel:
        refusal = refused(stubs_of(channel), b"1", model="m", format=ONNX)
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNIMPLEMENTED, "UNIMPLEMENTED")
    assert refusal.metadata["setting"] == "TRAINING_CORES"


def test_torchscript_is_refused_before_it_comes_unless_the_operator_has_allowed_it(
    start_service: Callable[..., ServiceProcess],
) -> None:
    service = start_service()
    with grpc.insecure_channel(service.address) as channel:
        refusal = refused(stubs_of(channel), b"", model="m", format="MODEL_FORMAT_TORCHSCRIPT")
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNIMPLEMENTED, "UNIMPLEMENTED")
    assert refusal.metadata["setting"] == "IMPORT_TORCHSCRIPT"
    assert "IMPORT_TORCHSCRIPT" in refusal.message


def test_labels_and_numbers_come_back_as_they_were_given(client: fitserve.Client, name: str) -> None:
    _, content = boosted()
    for classes, expected in (([7, 5, 3], "i"), ([0.5, 1.5, 2.5], "f"), (["a", "b", "c"], "OU")):
        client.import_model(name, content, format="xgboost", classes=classes, load=True)
        predictions = client.predict(name, X)
        assert predictions.dtype.kind in expected
        assert set(predictions.tolist()) == set(classes)
        client.remove(name, force=True)
