"""Which targets and tasks a loss fits, whatever the library calls it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from training.algorithms.base import Problem
from training.errors import invalid_field
from training.spec import Json


def check_targets(loss: Json, targets: NDArray[np.int64] | NDArray[np.float64], field: str, other: str) -> None:
    """Checks that a loss fits its targets.

    Args:
        loss: gamma, poisson, or any that fits all targets; case does not matter.
        targets: The values to learn.
        field: The field of the loss, such as lightgbm.objective.
        other: A loss that fits all targets, for the message.

    Raises:
        FitError: INVALID_FIELD; the targets are too small for the loss.
    """
    name = str(loss).lower()
    if name == "gamma" and targets.min() <= 0:
        raise invalid_field(field, f"gamma needs targets above zero; use {other} for others")
    if name == "poisson" and (targets.min() < 0 or targets.sum() <= 0):
        raise invalid_field(
            field, f"poisson needs targets of zero or more, some of them above zero; use {other} for others"
        )


def check_class_weight(class_weight: Json, problem: Problem, field: str) -> None:
    """Raises INVALID_FIELD if classes are to be weighed where there are none."""
    if problem.task == "regression" and class_weight is not None:
        raise invalid_field(field, "regression has no classes to weigh; leave it unset")


def check_loss_of_regression(loss: Json, problem: Problem, field: str) -> None:
    """Raises INVALID_FIELD if a loss for regression is set for classification."""
    if problem.task == "classification" and loss is not None:
        raise invalid_field(field, "classification always uses the log loss; leave it unset, or set task to regression")
