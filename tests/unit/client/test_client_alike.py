"""The two clients have the same methods: what one has, the other has, awaited."""

from __future__ import annotations

import inspect
import re
from typing import Any, get_overloads

import fitserve
import pytest

PAIRS = [(fitserve.Client, fitserve.AsyncClient), (fitserve.Job, fitserve.AsyncJob)]

ASYNC_NAMES = {"__enter__": "__aenter__", "__exit__": "__aexit__"}

AWAITED = [
    (r"\bAsync(Client|Job)\b", r"\1"),
    (r"\bAsync(Iterator|Iterable)\b", r"\1"),
    (r"\bSource\b", "Iterator[Chunk]"),
    (r"(Iterable\[.+\]) \| \1", r"\1"),
]
"""How the annotations of the asynchronous side become those of the synchronous one."""


def methods(kind: type) -> dict[str, Any]:  # functions of any signature
    """Returns the methods for callers, by their synchronous name."""
    names = {name: name for name in vars(kind) if not name.startswith("_")} | {"__init__": "__init__"}
    names |= {plain: awaited for plain, awaited in ASYNC_NAMES.items() if awaited in vars(kind)}
    names |= {plain: plain for plain in ASYNC_NAMES if plain in vars(kind)}
    return {plain: vars(kind)[name] for plain, name in names.items() if inspect.isroutine(vars(kind)[name])}


def annotation(text: object) -> str:
    plain = str(text)
    for pattern, replacement in AWAITED:
        plain = re.sub(pattern, replacement, plain)
    return plain


def shape(function: Any) -> tuple[list[tuple[str, Any, Any, str]], str]:
    """Returns the parameters with kind, default and annotation, and the annotation of the result."""
    signature = inspect.signature(function)
    parameters = [
        (one.name, one.kind, one.default, annotation(one.annotation)) for one in signature.parameters.values()
    ]
    return parameters, annotation(signature.return_annotation)


def summary(docstring: str) -> str:
    """Returns the first sentence."""
    return re.split(r"[.;](?:\s|$)", docstring)[0]


def named(pairs: list[tuple[type, type]]) -> list[Any]:
    return [
        pytest.param(plain, awaited, name, id=f"{plain.__name__}.{name}")
        for plain, awaited in pairs
        for name in methods(plain)
    ]


@pytest.mark.parametrize(("plain", "awaited"), PAIRS)
def test_both_have_the_same_methods_and_properties(plain: type, awaited: type) -> None:
    assert methods(plain).keys() == methods(awaited).keys()
    assert {name for name in dir(plain) if name[0] != "_"} == {name for name in dir(awaited) if name[0] != "_"}


@pytest.mark.parametrize(("plain", "awaited", "name"), named(PAIRS))
def test_a_method_has_the_same_parameters_on_both_sides(plain: type, awaited: type, name: str) -> None:
    one, other = methods(plain)[name], methods(awaited)[name]
    assert shape(one) == shape(other)
    overloads = [[shape(overload) for overload in get_overloads(method)] for method in (one, other)]
    assert overloads[0] == overloads[1]


@pytest.mark.parametrize(("plain", "awaited", "name"), named(PAIRS))
def test_a_method_is_explained_on_both_sides(plain: type, awaited: type, name: str) -> None:
    here, there = (inspect.getdoc(methods(kind)[name]) or "" for kind in (plain, awaited))
    refers = re.search(rf"see `{plain.__name__}(\.{name})?`", there)
    # What is explained at length is explained in one place.
    assert refers or ("\n" not in here and summary(here) == summary(annotation(there)) != "")
