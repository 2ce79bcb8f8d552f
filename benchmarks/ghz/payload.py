"""What each call sends: messages and metadata, from JSON with templates or from binary files.

The rules are those of ghz's runner/data.go: a list is sent whole by a client stream, and by other
calls one element a call, in turn; no data at all is an empty message; a binary file holds one message, or several, each
after its length.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from google.protobuf import json_format, message_factory
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.internal.decoder import _DecodeVarint  # type: ignore[attr-defined]
from google.protobuf.message import DecodeError, Message

from benchmarks.ghz.config import Config, ConfigError
from benchmarks.ghz.report import Echo
from benchmarks.ghz.templates import CallData, Template

Metadata = tuple[tuple[str, str | bytes], ...]


class Payload:
    """The messages of each call, as bytes.

    Attributes:
        echo: What the report repeats of the input.
    """

    def __init__(self, config: Config, method: MethodDescriptor) -> None:
        """Reads what a configuration sends with calls of a method.

        Raises:
            ConfigError: A file cannot be read, or its content does not fit the method's message.
        """
        self._method = method
        self._message = message_factory.GetMessageClass(method.input_type)
        self._count = config.stream_call_count
        self._fixed: list[bytes] = []
        self._templates: list[Template] = []
        self._dynamic_stream = config.stream_dynamic_messages and method.client_streaming
        metadata = _metadata_text(config)
        self._metadata = None if config.disable_template_data else _template(metadata, config)
        self._fixed_metadata = _parse_metadata(metadata) if not (self._metadata and self._metadata.dynamic) else ()
        # Any: JSON of a message.
        data: Any = None
        if config.binary_file:
            self._fixed = self._read_binary(Path(config.binary_file))
        else:
            data = self._read_json(config)
        self.echo = Echo(data, _sorted(_parse_json(metadata)), bool(config.binary_file))

    def _read_json(self, config: Config) -> Any:  # Any: JSON of a message
        """Takes data from the configuration or its file; returns it for the report, None where it is no JSON."""
        text = _read(config.data_file.strip()) if config.data_file.strip() else _dump(config.data or {})
        if not text:
            return None
        whole = Template("") if config.disable_template_data else _template(text, config)
        data = _parse_json(text)
        elements = [_dump(element) for element in data] if isinstance(data, list) else [text]
        if not whole.dynamic:
            self._fixed = [self._encode(element) for element in elements]
            if self._dynamic_stream:
                raise ConfigError("stream-dynamic-messages needs a template in data; it has none")
            return _sorted(data) if data or config.data_file else None
        if data is None or (self._method.client_streaming and not self._dynamic_stream):
            self._templates = [whole]  # the messages of one call share its variables
        else:
            self._templates = [_template(element, config) for element in elements]
        for template in self._templates:
            self._render(template, CallData(self._method, "", 0))
        return _sorted(data)

    def _read_binary(self, path: Path) -> list[bytes]:
        try:
            content = path.read_bytes()
        except OSError as error:
            raise ConfigError(f"binary-file: {path}: {error.strerror}") from error
        if not content:
            return []
        messages = self._delimited(content) or [content]
        for message in messages:
            try:
                self._message.FromString(message)
            except DecodeError as error:
                raise ConfigError(
                    f"binary-file: {path}: not a {self._message.DESCRIPTOR.full_name}: {error}"
                ) from error
        return messages

    def _delimited(self, content: bytes) -> list[bytes]:
        """Returns the messages of a file in which each comes after its length; nothing if it is no such file."""
        messages, place = [], 0
        while place < len(content):
            try:
                size, start = _DecodeVarint(content, place)
                if start + size > len(content):
                    break
                self._message.FromString(content[start : start + size])
            except IndexError:
                break
            except DecodeError:
                return []
            messages.append(content[start : start + size])
            place = start + size
        return messages

    def _encode(self, text: str) -> bytes:
        message: Message = self._message()
        try:
            json_format.Parse(text, message, descriptor_pool=self._method.containing_service.file.pool)
        except json_format.ParseError as error:
            raise ConfigError(f"data: {text[:100]!r} is no {message.DESCRIPTOR.full_name}: {error}") from error
        return message.SerializeToString()

    def _render(self, template: Template, call: CallData) -> list[bytes]:
        text = template.render(call)
        if not text.startswith("["):
            return [self._encode(text)]
        return [self._encode(_dump(element)) for element in json.loads(text)]

    def metadata(self, call: CallData) -> Metadata:
        """Returns a call's metadata."""
        if self._metadata and self._metadata.dynamic:
            return _parse_metadata(self._metadata.render(call))
        return self._fixed_metadata

    def message(self, call: CallData) -> bytes:
        """Returns the one message of a unary or server-streaming call.

        Raises:
            ConfigError: There is none.
        """
        if self._fixed:
            return self._fixed[call.number % len(self._fixed)]
        if not self._templates:
            raise ConfigError("no data for the call: give data, data-file or binary-file")
        messages = self._render(self._templates[call.number % len(self._templates)], call)
        return messages[call.number % len(messages)]

    def stream(self, call: CallData) -> Iterator[bytes]:
        """Yields the messages of a client-streaming or bidirectional call: all, or `stream-call-count` of them in turn."""
        if self._dynamic_stream:
            yield from self._dynamic(call)
            return
        messages = self._fixed or [message for template in self._templates for message in self._render(template, call)]
        for number in range(self._count or len(messages)):
            yield messages[number % len(messages)]

    def _dynamic(self, call: CallData) -> Iterator[bytes]:
        """Fills the templates anew for each message. After one pass ghz repeats the first element, and so does this."""
        is_list = self.echo.data is None or isinstance(self.echo.data, list)
        for number in range(self._count or (len(self._templates) if is_list else 0)):
            template = self._templates[number if number < len(self._templates) else 0]
            yield from self._render(template, call.renewed())


def _template(text: str, config: Config) -> Template:
    return Template(text, functions=not config.disable_template_functions)


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error


def _dump(value: Any) -> str:  # Any: JSON
    return "" if value is None else json.dumps(value, ensure_ascii=False)


def _sorted(value: Any) -> Any:  # Any: JSON
    """Returns JSON with the keys of its objects in order, as Go writes them."""
    return json.loads(json.dumps(value, sort_keys=True))


def _parse_json(text: str) -> Any:  # Any: JSON
    try:
        return json.loads(text)
    except ValueError:
        return None


def _metadata_text(config: Config) -> str:
    return _read(config.metadata_file.strip()) if config.metadata_file.strip() else _dump(config.metadata)


def _parse_metadata(text: str) -> Metadata:
    """Returns the pairs of a JSON object of texts; values of keys in -bin are base64."""
    pairs = json.loads(text) if text else {}
    if not isinstance(pairs, dict) or not all(isinstance(value, str) for value in pairs.values()):
        raise ConfigError("metadata: must be a JSON object whose values are texts")
    try:
        return tuple(
            (key.lower(), base64.b64decode(value, validate=True) if key.lower().endswith("-bin") else value)
            for key, value in pairs.items()
        )
    except binascii.Error as error:
        raise ConfigError(f"metadata: the value of a key that ends in -bin must be base64: {error}") from error
