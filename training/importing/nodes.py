"""Whether the numbers of nodes in a file make a tree: whoever follows others never comes to an end, or leaves the memory."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def are_tree(children: NDArray[np.int64], count: int) -> bool:
    """Returns whether each of `count` nodes but the root, node 0, follows at most one other, so that there are no circles.

    Args:
        children: The left and the right children of all inner nodes.
        count: The number of nodes.
    """
    inside = ((children > 0) & (children < count)).all()
    return bool(count > 0 and inside and len(np.unique(children)) == len(children))


def are_features(features: NDArray[np.int64], columns: int) -> bool:
    """Returns whether all `features` are of a row of so many columns."""
    return bool(((features >= 0) & (features < columns)).all())
