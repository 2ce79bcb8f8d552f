"""Templates, messages and metadata of each call, as ghz makes them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from fitserve.v1 import prediction_service_pb2, server_service_pb2, training_service_pb2
from google.protobuf.descriptor import MethodDescriptor

from benchmarks.ghz.config import Config, ConfigError
from benchmarks.ghz.payload import Payload
from benchmarks.ghz.templates import VARIABLES, CallData, Template

PREDICT = prediction_service_pb2.DESCRIPTOR.services_by_name["PredictionService"].methods_by_name["Predict"]
STREAM = prediction_service_pb2.DESCRIPTOR.services_by_name["PredictionService"].methods_by_name["PredictStream"]
UPLOAD = training_service_pb2.DESCRIPTOR.services_by_name["TrainingService"].methods_by_name["UploadDataset"]
STATUS = server_service_pb2.DESCRIPTOR.services_by_name["ServerService"].methods_by_name["GetStatus"]


def call(number: int = 0, method: MethodDescriptor = PREDICT) -> CallData:
    return CallData(method, "g1c0", number)


def payload(method: MethodDescriptor = PREDICT, **keys: Any) -> Payload:
    values = {"call": "a.B.C"} | {name.replace("_", "-"): value for name, value in keys.items()}
    return Payload(Config.model_validate(values), method)


def predict(payload: Payload, number: int = 0) -> prediction_service_pb2.PredictRequest:
    return prediction_service_pb2.PredictRequest.FromString(payload.message(call(number)))


def configs(payload: Payload, number: int = 0) -> list[str]:
    messages = payload.stream(call(number, STREAM))
    return [prediction_service_pb2.PredictStreamRequest.FromString(message).config.model for message in messages]


def test_every_variable_has_its_value() -> None:
    text = Template(" ".join(f"{{{{.{name}}}}}" for name in VARIABLES)).render(call(7))
    found = dict(zip(VARIABLES, text.split(), strict=True))
    assert found["RequestNumber"] == "7"
    assert found["WorkerID"] == "g1c0"
    assert found["FullyQualifiedName"] == "fitserve.v1.PredictionService.Predict"
    assert (found["MethodName"], found["ServiceName"]) == ("Predict", "PredictionService")
    assert (found["InputName"], found["OutputName"]) == ("PredictRequest", "PredictResponse")
    assert (found["IsClientStreaming"], found["IsServerStreaming"]) == ("false", "false")
    assert found["TimestampUnixNano"].startswith(found["TimestampUnix"])
    assert found["TimestampUnixNano"].startswith(found["TimestampUnixMilli"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(Z|[+-]\d\d:\d\d)", found["Timestamp"])
    assert re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", found["UUID"])


def test_the_functions_of_ghz_draw_anew_at_each_place() -> None:
    text = Template("{{randomString 8}} {{randomString 8}} {{randomInt 3 5}} {{newUUID}} {{ newUUID }}").render(call())
    one, other, number, first, second = text.split()
    assert len(one) == len(other) == 8
    assert one != other
    assert number in ("3", "4")
    assert first != second
    assert 2 <= len(Template("{{randomString 0}}").render(call())) <= 16


def test_comments_and_trim_markers_are_go_s() -> None:
    assert Template("a {{- /* not shown */ -}} b{{- .RequestNumber -}} c").render(call(5)) == "ab5c"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{{upper .UUID}}", "none of sprig's"),
        ("{{ .UUID | b64enc }}", "there is no such variable|none of sprig's"),
        ("{{if true}}x{{end}}", "nothing else of Go's templates"),
        ("{{.Uuid}}", "there is no such variable"),
        ("{{randomInt 1}}", "takes 2 arguments, not 1"),
        ("{{randomInt 5 5}}", "the first must be below the second"),
        ("{{randomString x}}", "neither a whole number nor a variable"),
        ("{{.UUID", "is not closed"),
    ],
)
def test_what_is_not_ghz_s_is_refused_before_the_load(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        payload(data={"model": text})


def test_templates_can_be_turned_off() -> None:
    with pytest.raises(ConfigError, match="disable-template-functions"):
        payload(data={"model": "{{newUUID}}"}, disable_template_functions=True)
    literal = payload(data={"model": "{{newUUID}}"}, metadata={"a": "{{.UUID}}"}, disable_template_data=True)
    assert predict(literal).model == "{{newUUID}}"
    assert literal.metadata(call()) == (("a", "{{.UUID}}"),)


def test_a_list_is_sent_one_element_a_unary_call_in_turn() -> None:
    found = payload(data=[{"model": "a"}, {"model": "b"}])
    assert [predict(found, number).model for number in range(4)] == ["a", "b", "a", "b"]


def test_a_list_with_templates_is_sent_in_turn_too() -> None:
    found = payload(data=[{"model": "a{{.RequestNumber}}"}, {"model": "b"}])
    assert [predict(found, number).model for number in range(3)] == ["a0", "b", "a2"]


def test_data_and_metadata_of_one_call_share_its_uuid() -> None:
    found = payload(data={"model": "{{.UUID}}"}, metadata={"X-ID": "{{.UUID}}", "k-bin": "AAE="})
    data = call()
    model = prediction_service_pb2.PredictRequest.FromString(found.message(data)).model
    assert found.metadata(data) == (("x-id", model), ("k-bin", b"\0\1"))


def test_a_data_file_may_be_json_only_after_its_templates_have_run(tmp_path: Path) -> None:
    (tmp_path / "data").write_text('{"inputs": {"rows": [[{{randomInt 4 5}}]]}}')
    found = payload(data_file=str(tmp_path / "data"))
    assert predict(found).inputs.rows[0].values[0].number_value == 4
    assert found.echo.data is None


def test_no_data_is_an_empty_message_but_an_empty_file_is_an_error(tmp_path: Path) -> None:
    assert payload(STATUS).message(call(0, STATUS)) == b""
    (tmp_path / "data").write_text("")
    with pytest.raises(ConfigError, match="no data for the call"):
        payload(data_file=str(tmp_path / "data")).message(call())


def test_a_stream_sends_the_whole_list() -> None:
    assert configs(payload(STREAM, data=[{"config": {"model": name}} for name in "abc"])) == ["a", "b", "c"]


def test_stream_call_count_goes_round_the_list() -> None:
    data = [{"config": {"model": name}} for name in "ab"]
    assert configs(payload(STREAM, data=data, stream_call_count=5)) == ["a", "b", "a", "b", "a"]


def test_the_messages_of_a_stream_share_a_uuid_unless_they_are_dynamic() -> None:
    data = [{"config": {"model": "{{.UUID}}"}}] * 3
    assert len(set(configs(payload(STREAM, data=data)))) == 1
    assert len(set(configs(payload(STREAM, data=data, stream_dynamic_messages=True)))) == 3


def test_dynamic_messages_repeat_the_first_element_after_one_pass() -> None:
    data = [{"config": {"model": f"{name}{{{{.RequestNumber}}}}"}} for name in "ab"]
    found = payload(STREAM, data=data, stream_dynamic_messages=True, stream_call_count=4)
    assert configs(found, 1) == ["a1", "b1", "a1", "a1"]


def test_dynamic_messages_without_templates_are_refused() -> None:
    with pytest.raises(ConfigError, match="needs a template"):
        payload(STREAM, data=[{"config": {"model": "a"}}], stream_dynamic_messages=True)


def test_a_binary_file_holds_one_message_or_several_after_their_lengths(tmp_path: Path) -> None:
    messages = [prediction_service_pb2.PredictRequest(model=name).SerializeToString() for name in ("iris", "wine")]
    (tmp_path / "one").write_bytes(messages[0])
    (tmp_path / "two").write_bytes(b"".join(bytes([len(message)]) + message for message in messages))
    assert predict(payload(binary_file=str(tmp_path / "one"))).model == "iris"
    two = payload(binary_file=str(tmp_path / "two"))
    assert [predict(two, number).model for number in range(3)] == ["iris", "wine", "iris"]


@pytest.mark.parametrize("content", [b"\xff\xff\xff", b"\x0f"])
def test_a_binary_file_that_is_no_message_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "data").write_bytes(content)
    with pytest.raises(ConfigError, match=r"not a fitserve.v1.PredictRequest"):
        payload(binary_file=str(tmp_path / "data"))


def test_data_that_does_not_fit_the_message_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"is no fitserve.v1.PredictRequest: .*modell"):
        payload(data={"modell": "a"})


@pytest.mark.parametrize("text", ["[]", '{"a": 1}', '{"a-bin": "?"}'])
def test_metadata_that_cannot_be_sent_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "metadata").write_text(text)
    with pytest.raises(ConfigError, match="metadata"):
        payload(metadata_file=str(tmp_path / "metadata"), data={"model": json.dumps(1)})
