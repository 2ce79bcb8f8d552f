from __future__ import annotations

from pathlib import Path

import catboost
import numpy as np
import pandas as pd
import pytest
from fitserve.v1 import model_pb2
from numpy.typing import NDArray

from predictors import native
from tests.reviews import reviews
from tests.unit.training.importing import Version, import_file
from training.errors import FitError

FRAME = reviews(200)
FRAME["review"] = FRAME["review"].fillna("")
FRAME["stars"] = np.random.default_rng(0).integers(1, 6, len(FRAME))
TARGETS = FRAME["verdict"].to_numpy()
VALUES = FRAME["price"].fillna(100).to_numpy()
COLUMNS = ["price", "city", "stars", "review"]


def cbm_of(
    directory: Path, targets: object, features: object, cats: list[object], texts: list[object], **parameters: object
) -> tuple[catboost.CatBoost, bytes]:
    options = {"iterations": 8, "thread_count": 1, "allow_writing_files": False, "logging_level": "Silent"}
    pool = catboost.Pool(features, targets, cat_features=cats, text_features=texts)
    model = catboost.CatBoost({**options, **parameters}).fit(pool)
    model.save_model(str(directory / "model.cbm"))
    return model, (directory / "model.cbm").read_bytes()


def served(directory: Path, version: Version, numbers: list[str], texts: list[str]) -> NDArray[np.float32]:
    """Returns what the backend answers for the frame, of which it gets numbers and texts apart."""
    (directory / "served.cbm").write_bytes(version.model)
    written = np.array([[str(value).encode() for value in row] for row in FRAME[texts].to_numpy()], object)
    features = FRAME[numbers].to_numpy(np.float32).reshape(len(FRAME), -1)
    return native.open_text_model(directory / "served.cbm").scores(features, written)


@pytest.mark.parametrize(
    ("cats", "texts", "numbers"),
    [
        (["city", "stars"], ["review"], ["price"]),
        (["city", "stars"], [], ["price"]),
        ([], ["review"], ["price", "stars"]),
    ],
)
@pytest.mark.parametrize(
    ("loss", "targets", "kind"),
    [
        ("Logloss", TARGETS, "Probability"),
        ("MultiClass", FRAME["stars"].to_numpy(), "Probability"),
        ("RMSE", VALUES, "RawFormulaVal"),
        ("Poisson", np.abs(VALUES), "Exponent"),
    ],
)
def test_what_is_served_predicts_what_catboost_predicts_from_categories_and_texts(
    tmp_path: Path, cats: list[object], texts: list[object], numbers: list[str], loss: str, targets: object, kind: str
) -> None:
    columns = [name for name in COLUMNS if name in [*cats, *texts, *numbers]]
    model, content = cbm_of(tmp_path, targets, FRAME[columns], cats, texts, loss_function=loss)
    version = import_file(tmp_path, "catboost", content)
    pool = catboost.Pool(FRAME[columns], cat_features=cats, text_features=texts)
    expected = model.predict(pool, prediction_type=kind).reshape(len(FRAME), -1)
    given = served(tmp_path, version, numbers, [name for name in columns if name not in numbers])
    np.testing.assert_allclose(given, expected, rtol=1e-5, atol=1e-6)
    assert version.manifest["backend"] == "fitserve_native"
    assert version.manifest["parity"]["row_count"] == 400
    kinds = {name: "category" for name in cats} | {name: "text" for name in texts}
    described = version.manifest["signature"]["columns"]
    assert [(one["name"], one["kind"]) for one in described] == [(name, kinds.get(name, "number")) for name in columns]
    assert [one.get("unknown_category") for one in described] == [
        "library" if name in cats else None for name in columns
    ]
    assert version.manifest["signature"]["classes"] == {
        "Logloss": ["again", "never"],
        "MultiClass": [1, 2, 3, 4, 5],
    }.get(loss, [])


def test_columns_without_names_have_their_places_or_the_names_that_the_caller_gives(tmp_path: Path) -> None:
    rows = FRAME[["price", "city", "review"]].to_numpy()
    _, content = cbm_of(tmp_path, TARGETS, rows, [1], [2], loss_function="Logloss")
    for names in ([], ["cost", "town", "words"]):
        (tmp_path / str(len(names))).mkdir()
        signature = model_pb2.Signature(columns=[model_pb2.ColumnSpec(name=name) for name in names])
        version = import_file(tmp_path / str(len(names)), "catboost", content, signature)
        columns = version.manifest["signature"]["columns"]
        assert [one["name"] for one in columns] == (names or ["0", "1", "2"])
        assert [one["kind"] for one in columns] == ["number", "category", "text"]


def test_a_new_version_has_texts_where_the_versions_before_have_them(tmp_path: Path) -> None:
    _, content = cbm_of(tmp_path, TARGETS, FRAME[["price", "review"]], [], ["review"], loss_function="Logloss")

    def kept(kind: str) -> model_pb2.Signature:
        columns = [
            model_pb2.ColumnSpec(name="price", kind="COLUMN_KIND_NUMBER"),
            model_pb2.ColumnSpec(name="review", kind=f"COLUMN_KIND_{kind}"),
        ]
        return model_pb2.Signature(task="TASK_CLASSIFICATION", shape=[2], columns=columns)

    for kind in ("NUMBER", "CATEGORY"):
        with pytest.raises(FitError, match="categories or texts in other columns"):
            import_file(tmp_path, "catboost", content, kept=kept(kind))
    assert import_file(tmp_path, "catboost", content, kept=kept("TEXT")).manifest["backend"] == "fitserve_native"


def test_what_of_texts_is_not_served_is_named(tmp_path: Path) -> None:
    vectors = pd.DataFrame({"price": FRAME["stars"], "vector": [[1.0, float(stars)] for stars in FRAME["stars"]]})
    pool = catboost.Pool(vectors, TARGETS, embedding_features=["vector"])
    options = {"iterations": 3, "loss_function": "Logloss", "allow_writing_files": False, "logging_level": "Silent"}
    catboost.CatBoost(options).fit(pool).save_model(str(tmp_path / "vectors.cbm"))
    with pytest.raises(FitError, match="embeddings"):
        import_file(tmp_path, "catboost", (tmp_path / "vectors.cbm").read_bytes())
    model, _ = cbm_of(tmp_path, TARGETS, FRAME[["price", "city"]], ["city"], [], loss_function="Logloss")
    model.get_metadata()["fitserve_category_counts"] = '{"1": 3}'
    model.save_model(str(tmp_path / "ours.cbm"))
    with pytest.raises(FitError, match="a version that Fit has made"):
        import_file(tmp_path, "catboost", (tmp_path / "ours.cbm").read_bytes())
    assert not (tmp_path / "version").exists()


def test_a_truncated_file_with_texts_is_damaged(tmp_path: Path) -> None:
    _, content = cbm_of(tmp_path, TARGETS, FRAME[["price", "review"]], [], ["review"], loss_function="Logloss")
    for part in (content[: len(content) // 2], content[:-10]):
        with pytest.raises(FitError) as refused:
            import_file(tmp_path, "catboost", part)
        assert (refused.value.reason, refused.value.field) == ("INVALID_FIELD", "content")
