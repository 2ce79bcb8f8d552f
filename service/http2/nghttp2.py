"""libnghttp2, the HTTP/2 library in C: what of it is used here.

It is called by its stable C interface (https://nghttp2.org/documentation/) without a compiler: the system's shared library
is opened as it is. The declarations are those of nghttp2.h; a pointer to a frame is declared as one to the frame's header,
with which every frame begins.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from cffi import FFI

from service.http2 import Nghttp2Missing

ERR_DEFERRED = -508
ERR_TEMPORAL_CALLBACK_FAILURE = -521
ERR_CALLBACK_FAILURE = -902

NO_FLAG = 0
END_STREAM = 1
DATA_EOF = 1
DATA_NO_END_STREAM = 2
NV_NO_COPY = 2 | 4
"""Neither the name nor the value of a header needs to be copied: they live as long as the process."""

HEADERS = 1
"""The type of a frame of headers; that of data is 0."""

NO_ERROR, CANCEL = 0, 8
"""Codes with which streams are reset and connections end."""

ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_HEADER_LIST_SIZE = 2, 3, 4, 6
"""Numbers of settings."""

ffi = FFI()
ffi.cdef(
    """
typedef struct nghttp2_session nghttp2_session;
typedef struct nghttp2_session_callbacks nghttp2_session_callbacks;
typedef struct nghttp2_option nghttp2_option;
typedef struct nghttp2_priority_spec nghttp2_priority_spec;
typedef struct { uint8_t *name; uint8_t *value; size_t namelen; size_t valuelen; uint8_t flags; } nghttp2_nv;
typedef union { int fd; void *ptr; } nghttp2_data_source;
typedef struct { size_t length; int32_t stream_id; uint8_t type; uint8_t flags; uint8_t reserved; } nghttp2_frame_hd;
typedef struct { int32_t settings_id; uint32_t value; } nghttp2_settings_entry;
typedef ssize_t (*read_callback)(nghttp2_session *, int32_t stream_id, uint8_t *buf, size_t length,
    uint32_t *data_flags, nghttp2_data_source *source, void *user_data);
typedef struct { nghttp2_data_source source; read_callback read_callback; } nghttp2_data_provider;
typedef int (*on_frame_callback)(nghttp2_session *, const nghttp2_frame_hd *, void *user_data);
typedef int (*on_header_callback)(nghttp2_session *, const nghttp2_frame_hd *, const uint8_t *name, size_t namelen,
    const uint8_t *value, size_t valuelen, uint8_t flags, void *user_data);
typedef int (*on_data_chunk_callback)(nghttp2_session *, uint8_t flags, int32_t stream_id, const uint8_t *data,
    size_t len, void *user_data);
typedef int (*on_stream_close_callback)(nghttp2_session *, int32_t stream_id, uint32_t error_code, void *user_data);

int nghttp2_session_callbacks_new(nghttp2_session_callbacks **);
void nghttp2_session_callbacks_set_on_begin_headers_callback(nghttp2_session_callbacks *, on_frame_callback);
void nghttp2_session_callbacks_set_on_frame_recv_callback(nghttp2_session_callbacks *, on_frame_callback);
void nghttp2_session_callbacks_set_on_header_callback(nghttp2_session_callbacks *, on_header_callback);
void nghttp2_session_callbacks_set_on_data_chunk_recv_callback(nghttp2_session_callbacks *, on_data_chunk_callback);
void nghttp2_session_callbacks_set_on_stream_close_callback(nghttp2_session_callbacks *, on_stream_close_callback);

int nghttp2_option_new(nghttp2_option **);
void nghttp2_option_set_no_auto_window_update(nghttp2_option *, int);
void nghttp2_option_set_no_closed_streams(nghttp2_option *, int);
void nghttp2_option_set_stream_reset_rate_limit(nghttp2_option *, uint64_t burst, uint64_t rate);
void nghttp2_option_set_no_rfc9113_leading_and_trailing_ws_validation(nghttp2_option *, int);

int nghttp2_session_server_new2(nghttp2_session **, const nghttp2_session_callbacks *, void *user_data,
    const nghttp2_option *);
int nghttp2_session_client_new2(nghttp2_session **, const nghttp2_session_callbacks *, void *user_data,
    const nghttp2_option *);
void nghttp2_session_del(nghttp2_session *);
ssize_t nghttp2_session_mem_recv(nghttp2_session *, const uint8_t *in, size_t inlen);
ssize_t nghttp2_session_mem_send(nghttp2_session *, const uint8_t **);
int nghttp2_session_check_request_allowed(nghttp2_session *);
int nghttp2_session_want_read(nghttp2_session *);
int nghttp2_session_want_write(nghttp2_session *);
int nghttp2_session_consume_connection(nghttp2_session *, size_t size);
int nghttp2_session_consume_stream(nghttp2_session *, int32_t stream_id, size_t size);
int nghttp2_session_resume_data(nghttp2_session *, int32_t stream_id);
int nghttp2_session_set_local_window_size(nghttp2_session *, uint8_t flags, int32_t stream_id, int32_t window_size);
int32_t nghttp2_session_get_last_proc_stream_id(nghttp2_session *);
size_t nghttp2_session_get_outbound_queue_size(nghttp2_session *);

int nghttp2_submit_settings(nghttp2_session *, uint8_t flags, const nghttp2_settings_entry *, size_t);
int nghttp2_submit_response(nghttp2_session *, int32_t stream_id, const nghttp2_nv *, size_t,
    const nghttp2_data_provider *);
int nghttp2_submit_trailer(nghttp2_session *, int32_t stream_id, const nghttp2_nv *, size_t);
int32_t nghttp2_submit_request(nghttp2_session *, const nghttp2_priority_spec *, const nghttp2_nv *, size_t,
    const nghttp2_data_provider *, void *stream_user_data);
int nghttp2_submit_rst_stream(nghttp2_session *, uint8_t flags, int32_t stream_id, uint32_t error_code);
int nghttp2_submit_ping(nghttp2_session *, uint8_t flags, const uint8_t *opaque_data);
int nghttp2_submit_goaway(nghttp2_session *, uint8_t flags, int32_t last_stream_id, uint32_t error_code,
    const uint8_t *opaque_data, size_t opaque_data_len);
"""
)


def _opened() -> Any:
    """Returns the library's functions. Any: cffi makes them when the library is opened."""
    for name in ("libnghttp2.so.14", "libnghttp2.so"):
        with suppress(OSError):
            return ffi.dlopen(name)
    raise Nghttp2Missing("libnghttp2 is not installed; on Debian and Ubuntu it is the package libnghttp2-14")


lib = _opened()

Fields = Sequence[tuple[bytes, bytes]]
"""Names and values of headers."""


class HeaderBlock:
    """Headers as the library takes them; keeps alive what they point to.

    Args:
        fields: Their names, in small letters, and their values.
        flags: `NV_NO_COPY` for a block that lives as long as the process.
    """

    def __init__(self, fields: Fields, flags: int = NO_FLAG) -> None:
        self.length = len(fields)
        self.pointer: Any = ffi.new("nghttp2_nv[]", self.length)
        self._kept = [
            (ffi.from_buffer("uint8_t[]", name), ffi.from_buffer("uint8_t[]", value)) for name, value in fields
        ]
        for entry, (name, value) in zip(self.pointer, self._kept, strict=True):
            entry.name, entry.namelen = name, len(name)
            entry.value, entry.valuelen = value, len(value)
            entry.flags = flags
