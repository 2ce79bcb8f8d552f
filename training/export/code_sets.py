"""Splits of decision trees by sets of codes, as nodes that compare numbers: what ONNX's trees can say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

CHAIN = 16
"""The most nodes that look for a code one after the other. onnxruntime loads a tree by a recursion as deep as the tree is,
and a chain of thousands overflows its stack."""

_ABOVE_ALL = 2.0**31


@dataclass(frozen=True)
class CodeSet:
    """Codes of categories that go to the left; the others from 0 to before `count` go to the right.

    Attributes:
        codes: The codes in ascending order.
        count: The number of all codes.
    """

    codes: NDArray[np.int64]
    count: int


@dataclass
class InnerNodes:
    """The nodes of a tree that grows, as lists; what a leaf has there means nothing.

    Attributes:
        feature: The feature that the node looks at.
        threshold: What it is compared with.
        left: The node that follows if the comparison holds. Several nodes may have the same one.
        right: The node that follows if it does not. It has no other parent: onnxruntime wants that.
        missing_left: Whether a missing value goes to the left.
        equal: The nodes that ask for equality.
        leaves: The nodes that were added as leaves; they are never reached.
    """

    feature: list[int]
    threshold: list[float]
    left: list[int]
    right: list[int]
    missing_left: list[bool]
    equal: list[int] = field(default_factory=list)
    leaves: list[int] = field(default_factory=list)

    def split_by_codes(self, place: int, codes: CodeSet) -> None:
        """Makes a node send the codes of a set to its left, and missing values where `missing_left` says.

        It becomes a search through the codes of the set, or of the other ones if they are fewer.
        """
        inside, outside, missing_inside = self.left[place], self.right[place], self.missing_left[place]
        found = codes.codes
        if 2 * len(found) > codes.count:
            found = np.setdiff1d(np.arange(codes.count), found)
            inside, outside, missing_inside = outside, inside, not missing_inside
        if not len(found):  # then all codes go the same way, and only missing ones may go another
            self._set(place, _ABOVE_ALL, outside, inside, not missing_inside)
            return
        chains = np.array_split(found, -(-len(found) // CHAIN))
        self._search(place, chains, inside, outside, missing_inside)

    def _search(
        self, place: int, chains: Sequence[NDArray[np.int64]], inside: int, outside: int, missing_inside: bool
    ) -> None:
        """Makes a node the root of a search through chains of ascending codes."""
        if len(chains) == 1:
            self._chain(place, chains[0], inside, outside, missing_inside)
            return
        middle = len(chains) // 2
        # A missing value may go to either side: each chain sends it on.
        left, right = self._add(place), self._add(place)
        self._set(place, float(chains[middle][0]) - 0.5, left, right, False)
        self._search(left, chains[:middle], inside, self._passed_on(left, outside), missing_inside)
        self._search(right, chains[middle:], inside, self._passed_on(right, outside), missing_inside)

    def _chain(self, place: int, codes: NDArray[np.int64], inside: int, outside: int, missing_inside: bool) -> None:
        """Makes a node the first of several that look for one code each."""
        nodes = [place, *(self._add(place) for _ in codes[1:])]
        for node, code, after in zip(nodes, codes.tolist(), [*nodes[1:], outside], strict=True):
            self._set(node, float(code), inside, after, missing_inside and node == place)
            self.equal.append(node)

    def _passed_on(self, like: int, target: int) -> int:
        """Returns a new node that always goes to `target`, which may have other parents."""
        node, never = self._add(like), self._add(like)
        self.leaves.append(never)
        self._set(node, _ABOVE_ALL, target, never, True)
        return node

    def _add(self, like: int) -> int:
        """Returns a new node that looks at the same feature as another."""
        self.feature.append(self.feature[like])
        self.threshold.append(0.0)
        self.left.append(0)
        self.right.append(0)
        self.missing_left.append(False)
        return len(self.feature) - 1

    def _set(self, node: int, threshold: float, left: int, right: int, missing_left: bool) -> None:
        self.threshold[node], self.left[node], self.right[node] = threshold, left, right
        self.missing_left[node] = missing_left
