"""ModelInfer of the Open Inference Protocol, called by tritonclient, sync and aio."""

from __future__ import annotations

import asyncio
import queue
from functools import partial

import fitserve
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc
from tritonclient.utils import InferenceServerException

from tests.contract.oip import features, scores
from tests.contract.test_training import IMAGES, SPECIES, X, fit
from tests.contract.wire import error_of
from tests.service_process import ServiceProcess


def test_the_same_rows_have_the_same_scores_as_by_predict(oip, client: fitserve.Client, oip_iris: str) -> None:
    expected = client.predict_proba(oip_iris, X)
    result = oip.infer(oip_iris, [features(X)], request_id="the-id")
    assert np.array_equal(result.as_numpy("scores"), expected.probabilities)
    response = result.get_response()
    assert (response.model_name, response.model_version, response.id) == (oip_iris, "1", "the-id")
    assert [(one.name, one.datatype, list(one.shape)) for one in response.outputs] == [("scores", "FP32", [150, 3])]


async def test_the_async_client_has_the_same_scores(service: ServiceProcess, oip, oip_iris: str) -> None:
    expected = oip.infer(oip_iris, [features(X)]).as_numpy("scores")
    async with triton_aio.InferenceServerClient(service.address) as client:
        answers = await asyncio.gather(*(client.infer(oip_iris, [features(X[i : i + 1])]) for i in range(150)))
    assert np.allclose(np.concatenate([answer.as_numpy("scores") for answer in answers]), expected, atol=1e-6)


def test_a_callback_gets_the_answer(oip, oip_iris: str) -> None:
    answers: queue.Queue = queue.Queue()
    oip.async_infer(oip_iris, [features(X[:2])], callback=lambda result, error: answers.put((result, error)))
    result, error = answers.get(timeout=20)
    assert error is None
    assert result.as_numpy("scores").shape == (2, 3)


@pytest.mark.parametrize("compression", ["gzip", "deflate"])
def test_compressed_requests_are_answered(oip, oip_iris: str, compression: str) -> None:
    result = oip.infer(oip_iris, [features(X)], compression_algorithm=compression)
    assert result.as_numpy("scores").shape == (150, 3)


def test_images_and_values_are_inferred(oip, client: fitserve.Client, name: str) -> None:
    labels = IMAGES.mean(axis=(1, 2, 3)).astype(float)
    client.fit(name, IMAGES[:100], labels[:100], algorithm="torch_cnn", epochs=1, queue=True, load=True).wait(60)
    result = oip.infer(name, [features(IMAGES[:5])])
    assert np.allclose(result.as_numpy("scores")[:, 0], client.predict(name, IMAGES[:5]))
    assert oip.get_model_metadata(name).outputs[0].shape == [-1, 1]
    assert oip.get_model_metadata(name).inputs[0].shape == [-1, 1, 8, 8]
    best = oip.infer(name, [features(IMAGES[:1])], outputs=[scores(5)]).as_numpy("scores")
    assert best.tolist() == [[f"{result.as_numpy('scores')[0, 0]:f}:0".encode()]]


def test_more_rows_than_a_batch_holds_are_answered_in_order(oip, oip_iris: str) -> None:
    few = oip.infer(oip_iris, [features(X)]).as_numpy("scores")
    many = oip.infer(oip_iris, [features(np.resize(X, (5000, 4)))]).as_numpy("scores")
    assert np.allclose(many, np.resize(few, (5000, 3)), atol=1e-6)


def test_classes_are_told_with_score_index_and_label(oip, oip_iris: str) -> None:
    proba = oip.infer(oip_iris, [features(X[::50])], outputs=[scores()]).as_numpy("scores")
    labels = sorted(set(SPECIES))
    for count in (1, 2, 3, 99):
        best = oip.infer(oip_iris, [features(X[::50])], outputs=[scores(count)]).as_numpy("scores")
        assert best.shape == (3, min(count, 3))
        for row, texts in zip(proba, best, strict=True):
            order = np.argsort(-row)[:count]
            assert [text.decode() for text in texts] == [f"{row[i]:f}:{i}:{labels[i]}" for i in order]


def test_parameters_that_our_models_have_no_use_for_are_taken(oip, oip_iris: str) -> None:
    result = oip.infer(
        oip_iris,
        [features(X[:1])],
        sequence_id=7,
        sequence_start=True,
        priority=3,
        timeout=1_000_000,
        parameters={"note": "x"},
    )
    assert result.as_numpy("scores").shape == (1, 3)


# -- typed contents, and everything that tritonclient does not let through -------------------------------------------


@pytest.fixture
def infer(service: ServiceProcess, oip):
    """Sends a raw request."""
    return oip._client_stub.ModelInfer


def request(model: str, **fields: object) -> pb.ModelInferRequest:
    tensor = {"name": "features", "datatype": "FP32", "shape": [1, 4]} | fields.pop("tensor", {})
    fields.setdefault("raw_input_contents", [X[:1].tobytes()])
    return pb.ModelInferRequest(model_name=model, inputs=[pb.ModelInferRequest.InferInputTensor(**tensor)], **fields)


def contents(**values: object) -> dict[str, object]:
    return {"tensor": {"contents": pb.InferTensorContents(**values)}, "raw_input_contents": []}


def test_typed_contents_are_taken(infer, oip_iris: str) -> None:
    raw = infer(request(oip_iris))
    typed = infer(request(oip_iris, **contents(fp32_contents=X[0].tolist())))
    assert typed.raw_output_contents == raw.raw_output_contents


def test_many_typed_values_and_many_classes_are_taken(oip, infer, oip_iris: str) -> None:
    rows = np.resize(X, (30_000, 4))
    best = {"outputs": [scores(1)._get_tensor()], "tensor": {"shape": rows.shape}}
    raw = infer(request(oip_iris, **best, raw_input_contents=[rows.tobytes()]))
    many = best | {"tensor": contents(fp32_contents=rows.ravel())["tensor"] | best["tensor"]}
    assert infer(request(oip_iris, **many, raw_input_contents=[])).raw_output_contents == raw.raw_output_contents
    assert len(triton.InferResult(raw).as_numpy("scores")) == 30_000


def requested(**fields: object) -> dict[str, object]:
    return {"outputs": [pb.ModelInferRequest.InferRequestedOutputTensor(**fields)]}


def number(value: int) -> pb.InferParameter:
    return pb.InferParameter(int64_param=value)


ROW = X[:1].tobytes()
BAD: dict[str, tuple[dict[str, object], str]] = {
    "version": ({"model_version": "One"}, "model_version"),
    "version 0": ({"model_version": "0"}, "model_version"),
    "input": ({"tensor": {"name": "feature"}}, "inputs"),
    "datatype": ({"tensor": {"datatype": "FP64"}}, "inputs[0].datatype"),
    "no datatype": ({"tensor": {"datatype": ""}}, "inputs[0].datatype"),
    "width": ({"tensor": {"shape": [1, 5]}, "raw_input_contents": [ROW + b"0000"]}, "inputs"),
    "bytes": ({"raw_input_contents": [ROW[:-1]]}, "raw_input_contents[0]"),
    "no rows": ({"tensor": {"shape": [0, 4]}, "raw_input_contents": [b""]}, "inputs[0].shape"),
    "negative shape": ({"tensor": {"shape": [-1, 4]}}, "inputs[0].shape"),
    "shapeless": ({"tensor": {"shape": []}}, "inputs[0].shape"),
    "huge shape": ({"tensor": {"shape": [2**62, 4]}}, "raw_input_contents[0]"),
    "missing value": ({"raw_input_contents": [np.full(4, np.nan, "<f4").tobytes()]}, "inputs[0, 0]"),
    "infinity": ({"raw_input_contents": [np.full(4, np.inf, "<f4").tobytes()]}, "inputs[0, 0]"),
    "data twice": ({"raw_input_contents": [ROW, ROW]}, "raw_input_contents"),
    "both data": (contents(fp32_contents=[1.0] * 4) | {"raw_input_contents": [ROW]}, "raw_input_contents"),
    "no data": ({"raw_input_contents": []}, "inputs[0].contents"),
    "other contents": (contents(int_contents=[1, 2, 3, 4]), "inputs[0].contents"),
    "short contents": (contents(fp32_contents=[1.0] * 3), "inputs[0].contents.fp32_contents"),
    "output": (requested(name="score"), "outputs[0].name"),
    "classes": (
        requested(name="scores", parameters={"classification": number(0)}),
        "outputs[0].parameters.classification",
    ),
}


@pytest.mark.parametrize(("fields", "field"), BAD.values(), ids=BAD)
def test_a_request_that_does_not_fit_names_its_field(
    infer, client: fitserve.Client, name: str, oip_iris: str, fields: dict[str, object], field: str
) -> None:
    model = oip_iris
    if field == "inputs[0, 0]":
        fit(client, model := name, load=True).wait(30)  # its training data had no missing values
    refusal = error_of(partial(infer, request(model, **fields)))
    assert (refusal.code.name, refusal.reason, refusal.domain) == ("INVALID_ARGUMENT", "INVALID_FIELD", "fitserve")
    assert refusal.fields == [field]


def test_no_and_several_inputs_are_refused(infer, oip_iris: str) -> None:
    for count in (0, 2):
        many = request(oip_iris)
        many.inputs.extend([many.inputs[0]] * (count - 1)) if count else many.ClearField("inputs")
        assert error_of(partial(infer, many)).fields == ["inputs"]


def test_too_many_class_texts_are_refused(oip, oip_iris: str) -> None:
    with pytest.raises(InferenceServerException, match="send fewer rows"):
        oip.infer(oip_iris, [features(np.resize(X, (40_000, 4)))], outputs=[scores(3)])


@pytest.mark.parametrize("place", ["inputs", "outputs"])
def test_tensors_in_shared_memory_are_unimplemented(infer, oip_iris: str, place: str) -> None:
    message = request(oip_iris, **requested(name="scores"))
    getattr(message, place)[0].parameters["shared_memory_region"].string_param = "region"
    refusal = error_of(partial(infer, message))
    assert (refusal.code.name, refusal.reason) == ("UNIMPLEMENTED", "UNIMPLEMENTED")
    assert "raw_input_contents" in refusal.message


def test_texts_are_refused_by_a_model_of_numbers(oip, oip_iris: str) -> None:
    with pytest.raises(InferenceServerException, match=r"inputs\[0\].datatype: 'BYTES' was sent .* 'FP32'") as refused:
        oip.infer(oip_iris, [features(np.array([["a", "b", "c", "d"]], object))])
    assert refused.value.status() == "StatusCode.INVALID_ARGUMENT"


# -- models that do not answer ---------------------------------------------------------------------------------------


def status_of(oip: triton.InferenceServerClient, model: str, version: str = "") -> tuple[str, str]:
    with pytest.raises(InferenceServerException) as refused:
        oip.infer(model, [features(X[:1])], model_version=version)
    return refused.value.status(), refused.value.message()


def test_models_that_do_not_answer_say_why(oip, client: fitserve.Client, name: str, oip_iris: str) -> None:
    fit(client, name).wait(30)
    assert status_of(oip, "oip-irs") == (
        "StatusCode.NOT_FOUND",
        "there is no model 'oip-irs'; did you mean 'oip-iris'?",
    )
    assert status_of(oip, oip_iris, "9")[0] == "StatusCode.NOT_FOUND"
    assert status_of(oip, name)[0] == "StatusCode.FAILED_PRECONDITION"
    assert status_of(oip, "../x")[0] == "StatusCode.INVALID_ARGUMENT"


def test_bytes_that_are_no_request_are_refused(service: ServiceProcess, oip) -> None:
    call = oip._channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
    refusal = error_of(lambda: call(b"\xff\xff\xff", timeout=10))
    assert refusal.reason == "UNDECODABLE_MESSAGE"
    assert service_pb2_grpc.GRPCInferenceServiceStub(oip._channel).ServerLive(pb.ServerLiveRequest()).live
