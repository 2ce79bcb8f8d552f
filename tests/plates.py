"""The plate picker's data, which lies beside a checkout and not in it, and its features once more, for comparison."""

from __future__ import annotations

import ast
import calendar
import csv
import math
import re
import shutil
from datetime import datetime
from pathlib import Path

import pytest

from tests.service_process import ROOT

DATA = ROOT.parent / "shared" / "data" / "plates"

Record = dict[str, object]


def need_data() -> None:
    """Skips a test where the customer's data is not beside the checkout."""
    if not (DATA / "micromodel.cbm").is_file():
        pytest.skip("../shared/data/plates is not there: the plate picker's model and rows are a customer's")


def place(model_dir: Path) -> None:
    """Puts the plate picker, with its model file, into a model directory."""
    shutil.copytree(ROOT / "model_repository" / "plate_picker", model_dir / "plate_picker")
    shutil.copy(DATA / "micromodel.cbm", model_dir / "plate_picker" / "1")


def raw_records(as_text: bool) -> list[Record]:
    """Returns the rows of the customer's table, with their lists as lists or as printed."""
    with open(DATA / "test_data.csv", encoding="utf-8", newline="") as file:
        return [_record(row, as_text) for row in csv.DictReader(file)]


def _record(row: dict[str, str], as_text: bool) -> Record:
    record: Record = dict(row)
    for name in ("recognition_accuracy", "afts_regno_ai_score", "direction"):
        record[name] = float(row[name])
    for name in ("afts_regno_ai_char_scores", "afts_regno_ai_length_scores"):
        record[name] = row[name] if as_text else ast.literal_eval(row[name])
    return record


# The list of patterns, each letter of which is a class of characters; (D) may be there or not.
CATEGORIES = [
    ("LDDDLLDD(D)", "private car"),
    ("LLDDDDD(D)", " lk_taxi_r_pricep"),
    ("LLDDDDDD(D)", "lk_pricep_r_transit"),
    ("DDDDLLDD(D)", "lk_moto_tract"),
    ("LDDDDLL", "some"),
    ("LLDDDLDD(D)", "lk_transit"),
    ("*LLDDDDD(D)", "lk_export"),
    ("LDDDDDD(D)", "lk_mvd_avto"),
    ("DDDDLDD(D)", "lk_mvd_moto"),
    ("DDDLDD(D)", "lk_mvd_pricep"),
]
DIPLOMAT = re.compile("[0-9][0-9][0-9](CD|\u0421D|D|T|\u0422)[0-9][0-9][0-9][0-9]?[0-9]?[0-9]?")


def category(plate: str) -> str:
    for pattern, name in CATEGORIES:
        for wanted in {pattern.replace("(D)", ""), pattern.replace("(D)", "D")}:
            if len(wanted) == len(plate) and all(map(_is, plate, wanted)):
                return name
    return "lk_diplomat" if DIPLOMAT.fullmatch(plate) else "unknown"


def _is(character: str, kind: str) -> bool:
    if kind == "D":
        return character in "0123456789"
    if kind == "*":
        return character in "T\u0422"
    return "\u0410" <= character <= "\u042f" or character == "\u0401"


def expected_row(record: Record, names: list[str]) -> list[object]:
    """Returns the features of a record in the order of the model's names, as the issue says them."""
    camera, network = str(record["regno_recognize"]), str(record["afts_regno_ai"])
    scores = list(record["afts_regno_ai_char_scores"]) or [0]  # type: ignore[call-overload]
    lengths = list(record["afts_regno_ai_length_scores"]) or [0]  # type: ignore[call-overload]
    time = datetime.strptime(str(record["time_check"]), "%Y-%m-%d %H:%M:%S")
    features: dict[str, object] = {
        **{name: record[name] for name in ("recognition_accuracy", "afts_regno_ai_score", "direction")},
        **{name: record[name] for name in ("camera_type", "camera_class")},
        "max_sym_score": sorted(scores)[-1],
        "min_sym_score": sorted(scores)[0],
        "max_len_score": sorted(lengths)[-1],
        "ai_len": len(network),
        "cam_len": len(camera),
        "foreign_sym": math.nan,
        "hour": time.hour,
        "weekday": calendar.day_name[time.weekday()],
        "month": calendar.month_name[time.month],
        "regno_template": category(camera),
        "regno_template_ai": category(network),
        "afts_regno_ai_text": " ".join(list(network)),
        "regno_recognize_text": " ".join(list(camera)),
    }
    for name in names:
        if len(name) == 1:
            features[name] = min(
                [score for character, score in zip(network, scores, strict=True) if character == name] or [1]
            )
    return [features[name] for name in names]
