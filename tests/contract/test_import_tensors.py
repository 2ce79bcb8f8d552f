"""Imported ONNX models of named tensors in a real Triton: any number of inputs and outputs, of any type and shape."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import fitserve
import numpy as np
import pytest
import tritonclient.grpc as triton
from fitserve import errors
from onnx import NodeProto, TensorProto, helper, numpy_helper

from tests.conftest import StartService

Tensors = Sequence[tuple[str, int, Sequence[int | str]]]
ML = "ai.onnx.ml"


def model(nodes: Sequence[NodeProto], inputs: Tensors, outputs: Tensors, **constants: np.ndarray) -> bytes:
    graph = helper.make_graph(
        nodes,
        "given",
        [helper.make_tensor_value_info(*one) for one in inputs],
        [helper.make_tensor_value_info(*one) for one in outputs],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(ML, 3)]
    content: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()
    return content


def weighted(factor: float = 2.0) -> bytes:
    """Two inputs of different types; the sum of each row, and whether it is above its bound."""
    nodes = [
        helper.make_node("Mul", ["values", "factor"], ["scaled"]),
        helper.make_node("ReduceSum", ["scaled", "axes"], ["total"], keepdims=1),
        helper.make_node("Cast", ["bound"], ["limit"], to=TensorProto.FLOAT),
        helper.make_node("Greater", ["total", "limit"], ["above"]),
    ]
    return model(
        nodes,
        [("values", TensorProto.FLOAT, ["n", 3]), ("bound", TensorProto.INT64, ["n", 1])],
        [("total", TensorProto.FLOAT, ["n", 1]), ("above", TensorProto.BOOL, ["n", 1])],
        factor=np.array(factor, np.float32),
        axes=np.array([1]),
    )


def words() -> bytes:
    """A text a row, as a list without a second dimension; its number and itself."""
    codes = helper.make_node(
        "LabelEncoder",
        ["word"],
        ["code"],
        domain=ML,
        keys_strings=["one", "zwölf"],
        values_int64s=[1, 12],
        default_int64=-1,
    )
    return model(
        [codes, helper.make_node("Identity", ["word"], ["same"])],
        [("word", TensorProto.STRING, ["n"])],
        [("code", TensorProto.INT64, ["n"]), ("same", TensorProto.STRING, ["n"])],
    )


def picture(rows: int | str = "n") -> bytes:
    """An image to an image."""
    return model(
        [helper.make_node("Conv", ["image", "w"], ["edges"], pads=[1, 1, 1, 1])],
        [("image", TensorProto.FLOAT, [rows, 3, 8, 8])],
        [("edges", TensorProto.FLOAT, [rows, 2, 8, 8])],
        w=np.full((2, 3, 3, 3), 0.5, np.float32),
    )


VALUES = np.array([[1, 2, 3], [4, 5, 6]], np.float32)
BOUND = np.array([[20], [20]])


def check_weighted(client: fitserve.Client, name: str, factor: float = 2.0, **chosen: object) -> None:
    outputs = client.predict(name, tensors={"values": VALUES, "bound": BOUND}, **chosen)  # type: ignore[call-overload]
    np.testing.assert_allclose(outputs["total"], VALUES.sum(axis=1, keepdims=True) * factor)
    assert outputs["above"].dtype == np.bool_
    assert outputs["above"].tolist() == (VALUES.sum(axis=1, keepdims=True) * factor > 20).tolist()


def test_inputs_and_outputs_of_different_types_come_and_go_by_name(client: fitserve.Client, name: str) -> None:
    imported = client.import_model(name, weighted(), format="onnx", load=True)
    (version,) = imported.versions
    assert version.signature is not None
    assert version.parity is not None
    assert [(one.name, one.dtype, one.shape) for one in version.signature.inputs] == [
        ("values", "FP32", (-1, 3)),
        ("bound", "INT64", (-1, 1)),
    ]
    assert [(one.name, one.dtype, one.shape) for one in version.signature.outputs] == [
        ("total", "FP32", (-1, 1)),
        ("above", "BOOL", (-1, 1)),
    ]
    assert (version.source, version.backend, version.parity.max_difference) == ("IMPORT", "onnxruntime", 0.0)
    check_weighted(client, name)
    records = client.predict(name, [{"values": [1, 2, 3], "bound": 11}, {"values": [1, 2, 3], "bound": 13}])
    assert list(records) == [{"total": 12.0, "above": True}, {"total": 12.0, "above": False}]
    with pytest.raises(errors.InvalidArgument, match="'bound' takes"):
        client.predict(name, tensors={"values": VALUES, "bound": BOUND.astype(np.float32)})


def test_texts_come_and_go_as_texts(client: fitserve.Client, name: str) -> None:
    client.import_model(name, words(), format="onnx", load=True)
    outputs = client.predict(name, tensors={"word": ["zwölf", "one", "two"]})
    assert outputs["code"].tolist() == [[12], [1], [-1]]
    assert outputs["same"].tolist() == [["zwölf"], ["one"], ["two"]]
    assert list(client.predict(name, [{"word": "one"}])) == [{"code": 1, "same": "one"}]


def test_images_come_and_go_with_their_shape(client: fitserve.Client, name: str) -> None:
    client.import_model(name, picture(), format="onnx", load=True)
    outputs = client.predict(name, tensors={"image": np.ones((5, 3, 8, 8), np.float32)})
    assert outputs["edges"].shape == (5, 2, 8, 8)
    assert (outputs["edges"][:, :, 1:7, 1:7] == 13.5).all()
    with pytest.raises(errors.InvalidArgument, match=r"takes \[-1, 3, 8, 8\]"):
        client.predict(name, tensors={"image": np.ones((5, 3, 8, 9), np.float32)})


def test_the_client_names_outputs_and_gives_open_lengths(client: fitserve.Client, name: str) -> None:
    made = model(
        [helper.make_node("Abs", ["x"], ["y"])],
        [("x", TensorProto.FLOAT, ["n", "m"])],
        [("y", TensorProto.FLOAT, ["n", "m"])],
    )
    client.import_model(name, made, format="onnx", inputs={"x": [-1, 2]}, outputs=["y"], load=True)
    (version,) = client.model(name).versions
    assert version.signature is not None
    assert [one.shape for one in (*version.signature.inputs, *version.signature.outputs)] == [(-1, 2), (-1, 2)]
    assert client.predict(name, tensors={"x": np.array([[-1, 2]], np.float32)})["y"].tolist() == [[1, 2]]


def test_one_bad_value_fails_alone(client: fitserve.Client, name: str) -> None:
    made = model(
        [helper.make_node("Gather", ["table", "place"], ["value"])],
        [("place", TensorProto.INT64, ["n", 1])],
        [("value", TensorProto.FLOAT, ["n", 1])],
        table=np.array([10, 20, 30], np.float32),
    )
    client.import_model(name, made, format="onnx", load=True)

    def ask(place: int) -> object:
        try:
            return client.predict(name, tensors={"place": np.array([[place]])})["value"].tolist()
        except errors.FitServeError as error:
            return error.reason

    with ThreadPoolExecutor(12) as pool:
        found = list(pool.map(ask, [0, 1, 2, 3] * 3))
    assert found == [[[10]], [[20]], [[30]], "INVALID_FIELD"] * 3


def test_what_the_model_cannot_compute_with_is_the_callers_to_mend(client: fitserve.Client, name: str) -> None:
    client.import_model(name, words(), format="onnx", load=True)
    with pytest.raises(errors.InvalidArgument, match="cannot compute with these values"):
        client.predict(name, tensors={"word": np.array([b"\xff\xfe"], object)})


def test_a_model_of_exactly_one_image_takes_one_at_a_time(client: fitserve.Client, name: str) -> None:
    client.import_model(name, picture(rows=1), format="onnx", load=True)
    image = np.ones((1, 3, 8, 8), np.float32)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: client.predict(name, tensors={"image": image})["edges"].shape, range(20)))
    assert found == [(1, 2, 8, 8)] * 20


def test_numbers_of_each_size_and_truth_values_come_back_as_they_went(client: fitserve.Client, name: str) -> None:
    given = {
        dtype.name: np.ones((2, 3), dtype)
        for dtype in map(np.dtype, ("bool", "u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8"))
    }
    kinds = {name: helper.np_dtype_to_tensor_dtype(array.dtype) for name, array in given.items()}
    made = model(
        [helper.make_node("Identity", [one], [f"{one}.out"]) for one in kinds],
        [(one, kind, ["n", 3]) for one, kind in kinds.items()],
        [(f"{one}.out", kind, ["n", 3]) for one, kind in kinds.items()],
    )
    client.import_model(name, made, format="onnx", load=True)
    outputs = client.predict(name, tensors=given)
    for one, array in given.items():
        assert (outputs[f"{one}.out"].dtype, outputs[f"{one}.out"].tolist()) == (array.dtype, array.tolist())


def test_streams_answer_in_order(client: fitserve.Client, name: str) -> None:
    client.import_model(name, weighted(), format="onnx", load=True)
    batches = [[{"values": [number, 0, 0], "bound": 5}] for number in range(10)]
    answers = [answer.predictions[0]["total"] for answer in client.predict_stream(name, batches)]
    assert answers == [2.0 * number for number in range(10)]


def test_tritons_client_sees_and_uses_the_tensors(
    oip: triton.InferenceServerClient, client: fitserve.Client, name: str
) -> None:
    client.import_model(name, weighted(), format="onnx", load=True)
    metadata = oip.get_model_metadata(name)
    assert [(one.name, one.datatype, list(one.shape)) for one in metadata.inputs] == [
        ("values", "FP32", [-1, 3]),
        ("bound", "INT64", [-1, 1]),
    ]
    inputs = [
        triton.InferInput("values", VALUES.shape, "FP32").set_data_from_numpy(VALUES),
        triton.InferInput("bound", BOUND.shape, "INT64").set_data_from_numpy(BOUND),
    ]
    assert oip.infer(name, inputs).as_numpy("above").tolist() == [[False], [True]]
    config = oip.get_model_config(name).config
    assert [(one.name, list(one.dims)) for one in config.input] == [("values", [3]), ("bound", [1])]


def test_versions_aliases_unload_and_remove_work_as_for_all_models(client: fitserve.Client, name: str) -> None:
    client.import_model(name, weighted(), format="onnx", load=True)
    client.import_model(name, weighted(3.0), format="onnx", new_version=True)
    with pytest.raises(errors.InvalidArgument, match="its inputs are"):
        client.import_model(name, words(), format="onnx", new_version=True)
    client.load(name, 2, alongside=True)
    client.set_alias(name, "champion", 2)
    check_weighted(client, name)
    check_weighted(client, name, 3.0, version="champion")
    client.unload(name)
    client.load(name, 2)
    check_weighted(client, name, 3.0)
    client.remove(name, force=True)
    with pytest.raises(errors.NotFound):
        client.model(name)


def test_versions_with_and_without_rows_answer_beside_each_other(client: fitserve.Client, name: str) -> None:
    def centred(axis: int) -> bytes:
        nodes = [
            helper.make_node("ReduceMean", ["x"], ["mean"], axes=[axis], keepdims=1),
            helper.make_node("Sub", ["x", "mean"], ["y"]),
        ]
        return model(nodes, [("x", TensorProto.FLOAT, ["n", 2])], [("y", TensorProto.FLOAT, ["n", 2])])

    client.import_model(name, centred(axis=1), format="onnx", outputs=["y"], load=True)
    client.import_model(name, centred(axis=0), format="onnx", outputs=["y"], new_version=True)
    client.load(name, 2, alongside=True)
    x = np.array([[1, 2], [5, 8]], np.float32)

    def ask(version: int) -> object:
        return client.predict(name, tensors={"x": x}, version=version)["y"].tolist()

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(ask, [1, 2] * 20))
    assert found == [[[-0.5, 0.5], [-1.5, 1.5]], [[-2, -3], [2, 3]]] * 20


def test_a_fit_cannot_continue_a_model_of_named_tensors(client: fitserve.Client, name: str) -> None:
    client.import_model(name, weighted(), format="onnx")
    with pytest.raises(errors.InvalidArgument, match="'values', 'bound'"):
        client.fit(name, VALUES, [0.0, 1.0], algorithm="linear", existing="new_version", queue=True)


def test_a_restart_of_the_service_keeps_it(start_service: StartService) -> None:
    first = start_service()
    with fitserve.Client(first.address) as client:
        client.import_model("weighted", weighted(), format="onnx", load=True)
        client.import_model("words", words(), format="onnx")
        before = client.model("weighted").versions[0].signature
    assert first.stop() == 0
    with fitserve.Client(start_service().address) as client:
        check_weighted(client, "weighted")
        assert client.model("weighted").versions[0].signature == before
        client.load("words")
        assert client.predict("words", tensors={"word": ["one"]})["code"].tolist() == [[1]]
