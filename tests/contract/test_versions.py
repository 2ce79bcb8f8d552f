"""Versions, aliases and copies over a real channel, with a real Triton."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial

import fitserve
import numpy as np
import psutil
import pytest
import tritonclient.grpc as triton
from fitserve import errors
from fitserve.v1 import model_service_pb2, prediction_service_pb2

from tests.conftest import StartService
from tests.contract.oip import features
from tests.contract.test_training import SPECIES, X, fit, wait_until
from tests.contract.wire import Stubs, error_of, rows
from tests.service_process import ServiceProcess

pb = model_service_pb2


def two_loaded(client: fitserve.Client, name: str) -> None:
    """Makes a model whose version 1 says "setosa" and serves, and whose version 2 says "SETOSA" and is loaded alongside."""
    fit(client, name, load=True).wait(60)
    client.fit(
        name, X, np.char.upper(SPECIES), algorithm="logistic_regression", queue=True, existing="new_version"
    ).wait(60)
    client.load(name, 2, alongside=True)


def said_by(client: fitserve.Client, name: str, version: int | str | None = None) -> str:
    return str(client.predict(name, X[:1], version=version)[0])


class Callers:
    """Predictions one after the other, by several threads, until the block ends; one that fails raises then."""

    def __init__(self, count: int, call: Callable[[], object]) -> None:
        self.answers: list[object] = []
        self._call = call
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(count)
        self._workers = [self._pool.submit(self._run) for _ in range(count)]

    def _run(self) -> None:
        while not self._stop.is_set():
            self.answers.append(self._call())

    def go_on(self, count: int = 20) -> None:
        """Waits until so many more predictions are answered."""
        before = len(self.answers)
        wait_until(lambda: len(self.answers) >= before + count or any(one.done() for one in self._workers))

    def __enter__(self) -> Callers:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        with self._pool:
            for worker in self._workers:
                worker.result(30)


# -- versions --------------------------------------------------------------------------------------------------------


def test_two_loaded_versions_each_answer_who_names_them(client: fitserve.Client, name: str) -> None:
    two_loaded(client, name)
    assert [said_by(client, name, version) for version in (1, 2, None)] == ["setosa", "SETOSA", "setosa"]
    model = client.model(name)
    assert (model.serving_version, model.loaded_versions, model.instances) == (1, (1, 2), 1)
    assert [version.version for version in client.model(name, 2).versions] == [2]
    loaded = {one.version: one.instances for one in client.status().models.loaded if one.model == name}
    assert loaded == {1: 1, 2: 1}
    streamed = client.predict_stream(name, [X[:1]] * 3, version=2)
    assert [(one.version, one.predictions[0]) for one in streamed] == [(2, "SETOSA")] * 3
    assert client.load(name, 2).loaded_versions == (2,)
    assert said_by(client, name) == "SETOSA"
    with pytest.raises(errors.FailedPrecondition, match="version 2 is; call Load first"):
        said_by(client, name, 1)


def test_one_of_two_versions_is_unloaded(client: fitserve.Client, name: str) -> None:
    two_loaded(client, name)
    assert client.unload(name, 1).serving_version == 2
    assert said_by(client, name) == "SETOSA"
    assert client.unload(name).state == "STORED"


def test_a_version_whose_process_is_killed_comes_back_while_the_other_answers(
    service: ServiceProcess, client: fitserve.Client, name: str
) -> None:
    two_loaded(client, name)
    (stub,) = stubs_of(service, name, 2)
    with Callers(2, partial(said_by, client, name, 1)) as callers:
        stub.kill()
        wait_until(lambda: _answers_anew(service, client, name, stub), 60)
        callers.go_on()
    assert set(callers.answers) == {"setosa"}


def _answers_anew(service: ServiceProcess, client: fitserve.Client, name: str, old: psutil.Process) -> bool:
    with suppress(errors.Unavailable):
        return said_by(client, name, 2) == "SETOSA" and old not in stubs_of(service, name, 2)
    return False


def stubs_of(service: ServiceProcess, name: str, version: int) -> list[psutil.Process]:
    """Returns the processes of a version's copies."""
    found = []
    for process in service.family():
        with suppress(psutil.Error):
            if f"/{name}/{version}/" in " ".join(process.cmdline()):
                found.append(process)
    return found


# -- aliases ---------------------------------------------------------------------------------------------------------


def test_an_alias_moves_and_is_rolled_back_under_load_without_a_failed_request(
    service: ServiceProcess, client: fitserve.Client, name: str
) -> None:
    two_loaded(client, name)
    client.set_alias(name, "champion", 1)
    oip = triton.InferenceServerClient(service.address)

    def ask() -> tuple[str, int]:
        inferred = oip.infer(name, [features(X[:1])], model_version="champion")
        assert inferred.get_response().model_version in ("1", "2")
        answer = client.predict_proba(name, X[:1], version="champion")
        assert answer.classes[0] == answer.predictions[0]
        return str(answer.predictions[0]), answer.version

    with Callers(3, ask) as callers:
        callers.go_on()
        moves = [
            partial(client.set_alias, name, "champion", 2),
            partial(client.rollback_alias, name, "champion"),
            partial(client.set_alias, name, "champion", 2),
            partial(client.unload, name, 1),
            partial(client.rollback_alias, name, "champion"),
        ]
        for move, version in zip(moves, (2, 1, 2, 2, 1), strict=True):
            assert move().version_of("champion") == version
            callers.go_on()
            word = "setosa" if version == 1 else "SETOSA"
            assert callers.answers[-1] == (word, version)
    assert set(callers.answers) == {("setosa", 1), ("SETOSA", 2)}
    oip.close()


def test_a_stream_follows_an_alias_that_moves(client: fitserve.Client, name: str) -> None:
    two_loaded(client, name)
    client.set_alias(name, "champion", 1)
    moved = threading.Event()

    def batches():
        yield X[:1]
        assert moved.wait(30)
        yield X[:1]

    answers = client.predict_stream(name, batches(), version="champion")
    assert next(answers).version == 1
    client.set_alias(name, "champion", 2)
    moved.set()
    assert [answer.version for answer in answers] == [2]


def test_an_alias_names_a_version_where_a_number_does(
    service: ServiceProcess, client: fitserve.Client, name: str
) -> None:
    two_loaded(client, name)
    client.set_alias(name, "challenger", 2)
    assert [version.version for version in client.model(name, "challenger").versions] == [2]
    with triton.InferenceServerClient(service.address) as oip:
        assert oip.is_model_ready(name, "challenger")
        assert oip.get_model_metadata(name, "challenger").versions == ["1", "2"]
        assert [one.version for one in oip.get_inference_statistics(name, "challenger").model_stats] == ["2"]
        assert [one.version for one in oip.get_inference_statistics(name).model_stats] == ["1", "2"]
        client.unload(name, "challenger")
        assert not oip.is_model_ready(name, "challenger")
    assert client.load(name, "challenger").serving_version == 2
    model = client.model(name)
    assert [(alias.name, alias.version, alias.previous_version) for alias in model.aliases] == [("challenger", 2, 0)]
    assert client.delete_alias(name, "challenger").aliases == ()


def test_a_newer_version_leaves_the_one_that_an_alias_names(client: fitserve.Client, name: str) -> None:
    fit(client, name, load=True).wait(60)
    client.set_alias(name, "champion", 1)
    fit(client, name, load=True, existing="new_version").wait(60)
    assert client.model(name).loaded_versions == (1, 2)
    assert client.predict_proba(name, X[:1]).version == 2
    assert client.predict_proba(name, X[:1], version="champion").version == 1


# -- errors ----------------------------------------------------------------------------------------------------------


def test_wrong_aliases_are_told_by_their_field(stubs: Stubs, client: fitserve.Client, name: str) -> None:
    fit(client, name, load=True).wait(60)
    inputs = rows(X[0].tolist())
    predict, stream = prediction_service_pb2.PredictRequest, prediction_service_pb2.PredictStreamConfig
    opening = [prediction_service_pb2.PredictStreamRequest(config=stream(model=name, version=1, alias="x"))]
    refused = {
        "alias": [
            partial(stubs.predictions.Predict, predict(model=name, alias="x", version=1, inputs=inputs)),
            partial(stubs.predictions.Predict, predict(model=name, alias="Champion", inputs=inputs)),
            partial(stubs.models.Load, pb.LoadRequest(model=name, alias="x", version=1)),
            partial(stubs.models.GetModel, pb.GetModelRequest(model=name, alias="x", version=1)),
            partial(stubs.models.Unload, pb.UnloadRequest(model=name, alias="1")),
            partial(stubs.models.SetAlias, pb.SetAliasRequest(model=name, version=1)),
            partial(stubs.models.RollbackAlias, pb.RollbackAliasRequest(model=name, alias="x" * 64)),
        ],
        "config.alias": [lambda: list(stubs.predictions.PredictStream(iter(opening)))],
        "version": [
            partial(stubs.models.SetAlias, pb.SetAliasRequest(model=name, alias="x")),
            partial(stubs.models.SetAlias, pb.SetAliasRequest(model=name, alias="x", version=-1)),
            partial(stubs.models.Unload, pb.UnloadRequest(model=name, version=0)),
        ],
        "instances": [
            partial(stubs.models.Load, pb.LoadRequest(model=name, instances=0)),
            partial(stubs.models.Load, pb.LoadRequest(model=name, instances=65)),
        ],
        "max_batch_rows": [partial(stubs.models.Load, pb.LoadRequest(model=name, max_batch_rows=1025))],
        "max_queue_rows": [partial(stubs.models.Load, pb.LoadRequest(model=name, max_queue_rows=0))],
    }
    for field, calls in refused.items():
        for call in calls:
            refusal = error_of(call)
            assert (refusal.reason, refusal.fields) == ("INVALID_FIELD", [field])


def test_unknown_aliases_and_versions_that_aliases_name_are_told(client: fitserve.Client, name: str) -> None:
    fit(client, name, load=True).wait(60)
    client.set_alias(name, "champion", 1)
    for call in (
        partial(client.predict, name, X[:1], version="champoin"),
        partial(client.load, name, "champoin"),
        partial(client.unload, name, "champoin"),
        partial(client.model, name, "champoin"),
        partial(client.rollback_alias, name, "champoin"),
        partial(client.delete_alias, name, "champoin"),
    ):
        with pytest.raises(errors.NotFound, match="did you mean 'champion'") as missing:
            call()
        assert missing.value.reason == "ALIAS_NOT_FOUND"
    with pytest.raises(errors.FailedPrecondition) as refused:
        client.rollback_alias(name, "champion")
    assert refused.value.reason == "NOTHING_TO_ROLL_BACK"
    client.unload(name)
    with pytest.raises(errors.FailedPrecondition) as refused:
        client.remove(name, 1)
    assert refused.value.reason == "VERSION_HAS_ALIAS"
    assert refused.value.metadata == {"model": name, "version": "1", "aliases": "champion"}
    with pytest.raises(errors.NotFound) as missing:
        client.set_alias(name, "champion", 2)
    assert missing.value.reason == "VERSION_NOT_FOUND"
    assert client.remove(name) == [1]


# -- copies ----------------------------------------------------------------------------------------------------------


def test_copies_are_added_and_taken_away_while_the_model_answers(
    service: ServiceProcess, client: fitserve.Client, name: str
) -> None:
    two_loaded(client, name)
    with triton.InferenceServerClient(service.address) as oip:
        with Callers(2, partial(said_by, client, name)) as callers:
            for count in (3, 2):
                assert client.load(name, 1, alongside=True, instances=count).instances == count
                groups = oip.get_model_config(name, "2").config.instance_group
                assert [group.count for group in groups] == [count]
                wait_until(lambda wanted=count: len(stubs_of(service, name, 1)) == wanted)
                callers.go_on()
        assert set(callers.answers) == {"setosa"}
    assert client.load(name, 2, max_batch_rows=10, max_queue_rows=5000).max_batch_rows == 10
    assert client.predict(name, X).tolist() == np.char.upper(client.predict(name, X)).tolist()
    model = client.model(name)
    assert (model.instances, model.max_batch_rows, model.max_queue_rows) == (2, 10, 5000)
    assert client.unload(name).instances == 0


def test_versions_copies_limits_and_aliases_outlive_triton_and_the_service(start_service: StartService) -> None:
    service = start_service()
    with fitserve.Client(service.address) as client:
        two_loaded(client, "iris")
        client.load("iris", 1, instances=2, max_batch_rows=100)
        client.set_alias("iris", "champion", 1)
        client.set_alias("iris", "champion", 2)
        before = client.model("iris")
        (server,) = (process for process in service.family() if process.name() == "tritonserver")
        server.kill()
        wait_until(lambda: client.status().triton.restart_count == 1, 60)
        _check_is_back(service, client, before)
    service.kill()
    service = start_service()
    with fitserve.Client(service.address) as client:
        _check_is_back(service, client, before)
        assert client.rollback_alias("iris", "champion").version_of("champion") == 1


def _check_is_back(service: ServiceProcess, client: fitserve.Client, before: fitserve.Model) -> None:
    now = client.model("iris")
    assert now.loaded_versions == (1, 2)
    assert (now.serving_version, now.aliases) == (1, before.aliases)
    assert (now.instances, now.max_batch_rows) == (2, 100)
    assert [said_by(client, "iris", version) for version in (1, 2, "champion", None)] == [
        "setosa",
        "SETOSA",
        "SETOSA",
        "setosa",
    ]
    assert len(stubs_of(service, "iris", 1)) == len(stubs_of(service, "iris", 2)) == 2
