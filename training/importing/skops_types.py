"""The types that files of skops may have, beside those that skops itself takes for harmless."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

_OBJECTS = {
    "scipy.interpolate._bsplines": ("BSpline",),
    "sklearn._loss.loss": ("HalfTweedieLoss", "HalfTweedieLossIdentity"),
    "sklearn.calibration": ("_CalibratedClassifier", "_SigmoidCalibration"),
    "sklearn.ensemble._hist_gradient_boosting.predictor": ("TreePredictor",),
    "sklearn.gaussian_process._gpc": ("_BinaryGaussianProcessClassifierLaplace",),
    "sklearn.gaussian_process.kernels": (
        "CompoundKernel",
        "ConstantKernel",
        "DotProduct",
        "ExpSineSquared",
        "Exponentiation",
        "Matern",
        "Product",
        "RBF",
        "RationalQuadratic",
        "Sum",
        "WhiteKernel",
    ),
    "sklearn.metrics._dist_metrics": (
        "ChebyshevDistance64",
        "EuclideanDistance64",
        "ManhattanDistance64",
        "MinkowskiDistance64",
    ),
    "sklearn.metrics._scorer": ("_CurveScorer", "_Scorer"),
    "sklearn.multiclass": ("_ConstantPredictor",),
    "sklearn.neighbors._ball_tree": ("BallTree",),
    "sklearn.neighbors._kd_tree": ("KDTree",),
    "sklearn.neural_network._stochastic_optimizers": ("AdamOptimizer", "SGDOptimizer"),
    "sklearn.utils._metadata_requests": ("MetadataRequest", "MethodMetadataRequest"),
}
_FUNCTIONS = (
    "scipy._lib.array_api_compat.numpy._aliases.asarray",
    "sklearn.feature_selection._univariate_selection.chi2",
    "sklearn.feature_selection._univariate_selection.f_classif",
    "sklearn.feature_selection._univariate_selection.f_regression",
    "sklearn.metrics._classification.balanced_accuracy_score",
)
LOADERS: Mapping[str, str] = {
    **{f"{module}.{name}": "ObjectNode" for module, names in _OBJECTS.items() for name in names},
    **dict.fromkeys(_FUNCTIONS, "FunctionNode"),
    "numpy.dtype": "DTypeNode",
    "sklearn.tree._tree.Tree": "TreeNode",
    "sklearn.utils._bunch.Bunch": "DictNode",
}
"""The types that a caller may trust, each with the node of skops that it is saved as.

Any other name would be a way to run code: skops calls what it finds under a trusted name with arguments from the file,
be it a function such as numpy.testing.runstring or a type that opens files, such as numpy.memmap. So the names are
written down, not looked up, and what is saved as an object is never called as a function would be.
"""


def misused(file: Path) -> str | None:
    """Returns the name of a type in LOADERS that the file has in another place than where skops saves it, or None."""
    with zipfile.ZipFile(file) as parts:
        schema = json.loads(parts.read("schema.json"))
    for node in _nodes(schema):
        name = f"{node.get('__module__')}.{node.get('__class__')}"
        if name in LOADERS and node["__loader__"] not in (LOADERS[name], "CachedNode"):
            return name
    return None


# Any: JSON.
def _nodes(schema: Any) -> Iterator[dict[str, Any]]:
    """Yields all nodes of a schema, however deep."""
    left = [schema]
    while left:
        part = left.pop()
        if isinstance(part, dict):
            if "__loader__" in part:
                yield part
            left.extend(part.values())
        elif isinstance(part, list):
            left.extend(part)
