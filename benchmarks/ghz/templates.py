"""The templates in data and metadata: `{{.RequestNumber}}`, `{{randomInt 1 10}}` and the like.

ghz runs them through Go's text/template (runner/calldata.go) with its variables, its three functions and all of sprig's.
Here are the variables, the three functions with literal or variable arguments, comments, and Go's trim markers. Everything
else is refused when the load is read, never while it runs.
"""

from __future__ import annotations

import functools
import random
import re
import string
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace

from google.protobuf.descriptor import MethodDescriptor

from benchmarks.ghz.config import ConfigError
from benchmarks.ghz.units import local_time

_ACTION = re.compile(r"(\s+(?={{- ))?{{(?:- )?\s*(/\*.*?\*/|.*?)\s*(?: -}}\s*|}})", re.DOTALL)
_CHARACTERS = string.ascii_letters + string.digits

Value = str | int | bool


@dataclass(frozen=True)
class CallData:
    """What the templates of one call can name.

    Attributes:
        method: The method called.
        worker_id: g<worker>c<connection>, after the load's name and a colon if it has a name.
        number: The call's number, from 0.
    """

    method: MethodDescriptor
    worker_id: str
    number: int

    def renewed(self) -> CallData:
        """Returns the same call with a new UUID and new times, for a further message of its stream."""
        return replace(self)

    @functools.cached_property
    def variables(self) -> dict[str, Value]:
        """The variables by name."""
        now = time.time_ns()
        return {
            "WorkerID": self.worker_id,
            "RequestNumber": self.number,
            "FullyQualifiedName": self.method.full_name,
            "MethodName": self.method.name,
            "ServiceName": self.method.containing_service.name,
            "InputName": self.method.input_type.name,
            "OutputName": self.method.output_type.name,
            "IsClientStreaming": self.method.client_streaming,
            "IsServerStreaming": self.method.server_streaming,
            "Timestamp": local_time(now, fraction=False),
            "TimestampUnix": now // 1_000_000_000,
            "TimestampUnixMilli": now // 1_000_000,
            "TimestampUnixNano": now,
            "UUID": str(uuid.uuid4()),
        }


VARIABLES = (
    "WorkerID",
    "RequestNumber",
    "FullyQualifiedName",
    "MethodName",
    "ServiceName",
    "InputName",
    "OutputName",
    "IsClientStreaming",
    "IsServerStreaming",
    "Timestamp",
    "TimestampUnix",
    "TimestampUnixMilli",
    "TimestampUnixNano",
    "UUID",
)


def _new_uuid() -> str:
    return str(uuid.uuid4())


def _random_string(length: int) -> str:
    """`length` letters and digits; between 2 and 16 of them if it is not positive."""
    return "".join(random.choices(_CHARACTERS, k=length if length > 0 else random.randint(2, 16)))


def _random_int(low: int, high: int) -> int:
    """A number from `low` up to, and without, `high`; ghz takes 0 for a negative low and 1 for a high below 1."""
    low, high = max(low, 0), high if high > 0 else 1
    if low >= high:
        raise ConfigError(f"randomInt {low} {high}: the first must be below the second")
    return random.randrange(low, high)


FUNCTIONS: dict[str, tuple[int, Callable[..., Value]]] = {
    "newUUID": (0, _new_uuid),
    "randomString": (1, _random_string),
    "randomInt": (2, _random_int),
}

Part = Callable[[dict[str, Value]], str]


class Template:
    """A text with templates in it, taken apart once.

    Attributes:
        dynamic: Whether there is any; a text without is the same for every call.
    """

    def __init__(self, text: str, *, functions: bool = True) -> None:
        """Takes `text` apart.

        Args:
            functions: Whether functions are allowed (ghz's `disable-template-functions` forbids them).

        Raises:
            ConfigError: Something in braces is neither a variable nor one of ghz's functions.
        """
        self._parts: list[str | Part] = []
        end = 0
        for found in _ACTION.finditer(text):
            self._parts.append(text[end : found.start()])
            if not found[2].startswith("/*"):
                self._parts.append(_compile(found[2], functions))
            end = found.end()
        self._parts.append(text[end:])
        if any(isinstance(part, str) and "{{" in part for part in self._parts):
            raise ConfigError(f"a template is not closed with '}}}}': {text[text.index('{{') :][:60]!r}")
        self.dynamic = any(not isinstance(part, str) for part in self._parts)

    def render(self, call: CallData) -> str:
        """Returns the text for one call."""
        variables = call.variables if self.dynamic else {}
        return "".join(part if isinstance(part, str) else part(variables) for part in self._parts)


def _compile(action: str, functions: bool) -> Part:
    words = action.split()
    if len(words) == 1 and words[0].startswith("."):
        name = _variable(words[0])
        return lambda variables: _text(variables[name])
    if not words or words[0] not in FUNCTIONS:
        raise ConfigError(
            f"{{{{{action}}}}}: only ghz's variables ({', '.join(VARIABLES)}) and functions "
            f"({', '.join(FUNCTIONS)}) are known here, none of sprig's "
            "and nothing else of Go's templates; the real ghz runs them"
        )
    if not functions:
        raise ConfigError(f"{{{{{action}}}}}: disable-template-functions is set")
    count, function = FUNCTIONS[words[0]]
    if len(words) - 1 != count:
        raise ConfigError(f"{{{{{action}}}}}: {words[0]} takes {count} arguments, not {len(words) - 1}")
    arguments = [_argument(word, action) for word in words[1:]]
    part: Part = lambda variables: _text(function(*(argument(variables) for argument in arguments)))  # noqa: E731
    if all(not word.startswith(".") for word in words[1:]):
        part({})  # an impossible range is found now
    return part


def _argument(word: str, action: str) -> Callable[[dict[str, Value]], Value]:
    if word.startswith("."):
        name = _variable(word)
        return lambda variables: variables[name]
    if not re.fullmatch(r"-?\d+", word):
        raise ConfigError(f"{{{{{action}}}}}: {word!r} is neither a whole number nor a variable")
    number = int(word)
    return lambda variables: number


def _variable(word: str) -> str:
    if word[1:] not in VARIABLES:
        raise ConfigError(f"{{{{{word}}}}}: there is no such variable; there are {', '.join(VARIABLES)}")
    return word[1:]


def _text(value: Value) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
