from __future__ import annotations

from pathlib import Path

import pytest
from fitserve.v1 import algorithm_pb2, training_service_pb2, training_spec_pb2
from google.protobuf import message_factory

from tests.unit.training.cases import make_spec, write_spec
from training import algorithms, spec
from training.algorithms.base import Problem

FAMILIES = list(training_service_pb2.FitRequest.DESCRIPTOR.oneofs_by_name["algorithm"].fields)


def test_a_spec_without_settings_has_the_defaults_of_the_contract(tmp_path: Path) -> None:
    message = make_spec(tmp_path / "d", tmp_path / "out", "xgboost")
    read = spec.read(write_spec(tmp_path / "spec.pb", message))
    assert (read.validation_fraction, read.seed, read.cores, read.memory_limit_bytes) == (0.2, 0, 1, None)
    assert (read.algorithm, read.task, read.model) == ("xgboost", "classification", "irises")


def test_a_spec_without_an_algorithm_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="algorithm"):
        spec.read(write_spec(tmp_path / "spec.pb", training_spec_pb2.TrainingSpec()))


def test_messages_name_the_field_that_the_data_came_in(tmp_path: Path) -> None:
    message = make_spec(tmp_path / "d", tmp_path / "out", "xgboost", dataset="sha256:1", target="kind")
    read = spec.read(write_spec(tmp_path / "spec.pb", message))
    assert (read.inputs_field, read.targets_field) == ("dataset", "target")


def test_messages_about_inline_data_name_labels_or_targets_whichever_were_sent(tmp_path: Path) -> None:
    message = make_spec(tmp_path / "d", tmp_path / "out", "xgboost")
    assert spec.read(write_spec(tmp_path / "spec.pb", message)).targets_field == "inline.targets"
    message.request.inline.labels.SetInParent()
    read = spec.read(write_spec(tmp_path / "spec.pb", message))
    assert (read.inputs_field, read.targets_field) == ("inline.inputs", "inline.labels")


@pytest.mark.parametrize("field", FAMILIES, ids=lambda field: field.name)
def test_every_algorithm_of_the_contract_has_a_family_with_a_default_for_every_field(field: object) -> None:
    name, message_type = field.name, field.message_type  # type: ignore[attr-defined]
    message = message_factory.GetMessageClass(message_type)()
    family = algorithms.build(name, message, Problem("classification", (1, 8, 8), 2, seed=0, cores=1))
    names = {field.name for field in message_type.fields}
    assert set(family.DEFAULTS) == names == set(family.parameters)


def test_what_is_set_takes_the_place_of_the_default() -> None:
    message = algorithm_pb2.TorchMlp(hidden_sizes=[8, 4], dropout=0)
    chosen = spec.effective_parameters(message, {"hidden_sizes": [64], "dropout": 0.5, "epochs": 50})
    assert chosen == {"hidden_sizes": [8, 4], "dropout": 0.0, "epochs": 50}
