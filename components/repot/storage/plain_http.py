"""GET requests that take a tenth of the processor time of a cloud client's.

A builder reads a million small objects. A cloud client takes 0.75 ms of processor time for each,
and even `urllib3` 0.2 ms, mostly because the headers of every response are parsed as those of an
e-mail; decoding a picture takes 0.5 ms. Here it is 0.05 ms: one `send`, as few `recv` as the
network allows, and headers that are split at their colons.

So this is no HTTP client. It knows one kind of response, with a stated length, which is what object
stores send. Whatever else happens, the caller leaves the request to the client of the service, with
its proxies, retries and messages.
"""

import contextlib
import http.client
import re
import socket
import ssl
import time
import weakref
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from repot.storage.retries import (
    CONNECT_SECONDS,
    THROTTLED_STATUSES,
    ServiceState,
    parse_retry_after,
    pause_after_refusal,
)

MAX_BODY_BYTES = 32 << 20
"""A longer body is not read: it belongs into a file."""

_MAX_HEAD_BYTES = 1 << 16
_BLOCK_BYTES = 1 << 16
# A server that does not understand these requests is not asked again for so long.
_PAUSE_SECONDS = 60.0
_STATUS_LINE = re.compile(r"HTTP/(1\.[01]) ([2-5]\d\d)(?: |$)")
_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, kw_only=True, slots=True)
class Response:
    """A response; it is complete unless its status is that of an error.

    Attributes:
        status: The HTTP status.
        headers: Values by lower-case name; those of repeated headers are joined by ", ".
        body: The bytes as they were sent, which may be compressed.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes

    def is_answer(self, *, to_range: bool) -> bool:
        """Return whether it has what a request for a whole object, or for a range, asked for."""
        return self.status == (http.client.PARTIAL_CONTENT if to_range else http.client.OK)


class _UnusableServerError(Exception):
    """The server cannot be reached, or answers in a way that this module does not read."""


class _LongBodyError(Exception):
    """The body is longer than MAX_BODY_BYTES."""


class Server:
    """The connections to a server, each of which is used for one request at a time.

    Attributes:
        host: The value of the header Host.
    """

    def __init__(self, url: str, *, ca_path: str) -> None:
        """Open no connection yet.

        Args:
            url: Any URL of the server.
            ca_path: File or folder of the certificate authorities to trust.

        Raises:
            OSError, ValueError: The URL or the certificates cannot be used.
        """
        parts = urlsplit(url)
        self._name, default_port = parts.hostname or "", _DEFAULT_PORTS.get(parts.scheme)
        self._port = parts.port or default_port or 0
        self.host = f"[{self._name}]" if ":" in self._name else self._name
        if self._port != default_port:
            self.host += f":{self._port}"
        self._tls = _tls_context(ca_path) if parts.scheme == "https" else None
        # The connection that was used last is used first: the others may be closed by the server.
        self._idle: deque[socket.socket] = deque()
        self._paused_until = 0.0
        weakref.finalize(self, _close_all, self._idle)

    def get(
        self,
        target: str,
        headers: Mapping[str, str],
        *,
        read_seconds: float,
        has_body: bool = True,
    ) -> Response | None:
        """Return the response to a GET or HEAD request.

        Args:
            target: Path and query, percent-encoded.
            headers: The headers of the request, without Host.
            read_seconds: How long to wait for each part of the response.
            has_body: False for a HEAD request, whose response has no body.

        Returns:
            The response, whatever its status; None if the request failed, or if the response is of
            another kind than those that this module reads.
        """
        method = "GET" if has_body else "HEAD"
        head = _request_head(f"{method} {target}", self.host, headers)
        if not head or time.monotonic() < self._paused_until:
            return None
        try:
            return self._exchange(head, read_seconds, has_body=has_body)
        except _UnusableServerError:
            self._paused_until = time.monotonic() + _PAUSE_SECONDS
        except (OSError, _LongBodyError):
            pass
        return None

    def _exchange(self, head: bytes, read_seconds: float, *, has_body: bool) -> Response:
        """Return the response to a request, over an idle connection or a new one."""
        with contextlib.suppress(IndexError):
            while True:
                connection = self._idle.pop()
                try:
                    return self._send(connection, head, read_seconds, has_body=has_body)
                except TimeoutError:
                    raise
                except OSError:
                    # Servers close idle connections.
                    continue
        try:
            connection = self._connect()
        except (OSError, ValueError) as err:
            raise _UnusableServerError from err
        return self._send(connection, head, read_seconds, has_body=has_body)

    def _send(
        self, connection: socket.socket, head: bytes, read_seconds: float, *, has_body: bool
    ) -> Response:
        is_open = False
        try:
            connection.settimeout(read_seconds)
            connection.sendall(head)
            response, is_open = _read_response(connection, has_body=has_body)
        finally:
            if is_open:
                self._idle.append(connection)
            else:
                connection.close()
        return response

    def _connect(self) -> socket.socket:
        plain = socket.create_connection((self._name, self._port), CONNECT_SECONDS)
        try:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._tls is None:
                return plain
            return self._tls.wrap_socket(plain, server_hostname=self._name)
        except BaseException:
            plain.close()
            raise


def send_within_limit(send: Callable[[], Response | None], state: ServiceState) -> Response | None:
    """Return the response to one request, which counts among those of the service's client.

    If the service refuses it because there are too many, the limit is lowered, and the caller
    waits before the client makes the next attempt.

    Args:
        send: Sends the request; returns None if there is no response.
        state: The state of the service.
    """
    sent = state.limit.start()
    is_success = is_refused = False
    try:
        response = send()
        if response is not None:
            is_success = response.status < http.client.MULTIPLE_CHOICES
            is_refused = response.status in THROTTLED_STATUSES
            if is_refused:
                wait = parse_retry_after(response.headers.get("retry-after", ""))
                state.limit.lower(sent, pause_seconds=wait)
    finally:
        state.limit.end(sent, succeeded=is_success)
    if is_refused:
        pause_after_refusal()
    return response


def is_behind_proxy(url: str) -> bool:
    """Return whether the environment names a proxy for a URL."""
    from requests.utils import get_environ_proxies, select_proxy

    return select_proxy(url, get_environ_proxies(url, no_proxy=None)) is not None


def _tls_context(ca_path: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_verify_locations(cafile=ca_path)
    except IsADirectoryError:
        context.load_verify_locations(capath=ca_path)
    return context


def _close_all(connections: "deque[socket.socket]") -> None:
    with contextlib.suppress(IndexError):
        while True:
            connections.pop().close()


def _request_head(method_and_target: str, host: str, headers: Mapping[str, str]) -> bytes:
    """Return a request; empty if a value has characters that do not belong there."""
    lines = [f"{name}: {value}\r\n" for name, value in headers.items()]
    head = f"{method_and_target} HTTP/1.1\r\nHost: {host}\r\n{''.join(lines)}\r\n"
    # A line break in a value would begin another header.
    is_valid = head.count("\n") == head.count("\r") == len(lines) + 3 and head.isascii()
    return head.encode() if is_valid else b""


def _read_response(connection: socket.socket, *, has_body: bool) -> tuple[Response, bool]:
    """Return a response, and whether the connection can be used again.

    Raises:
        OSError: The connection failed, or ended too early.
        _UnusableServerError: The response has no stated length, or is malformed.
        _LongBodyError: The body is too long.
    """
    data = connection.recv(_BLOCK_BYTES)
    while (end := data.find(b"\r\n\r\n")) < 0:
        if len(data) > _MAX_HEAD_BYTES:
            raise _UnusableServerError
        block = connection.recv(_BLOCK_BYTES)
        if not block:
            raise ConnectionResetError
        data += block
    version, status, headers = _parse_head(data[:end])
    body, num_bytes = data[end + 4 :], _content_length(headers) if has_body else 0
    if status >= http.client.MULTIPLE_CHOICES and not 0 <= num_bytes <= MAX_BODY_BYTES:
        # Amazon's errors have no stated length. Nobody reads them.
        return Response(status=status, headers=headers, body=b""), False
    if num_bytes < len(body):
        raise _UnusableServerError
    if num_bytes > MAX_BODY_BYTES:
        raise _LongBodyError
    if len(body) < num_bytes:
        body = _read_rest(connection, body, num_bytes)
    is_open = version == "1.1" and headers.get("connection", "").lower() != "close"
    return Response(status=status, headers=headers, body=body), is_open


def _parse_head(head: bytes) -> tuple[str, int, dict[str, str]]:
    """Return HTTP version, status and headers of a response.

    Raises:
        _UnusableServerError: It is malformed.
    """
    first, *lines = head.decode("latin-1").split("\r\n")
    match = _STATUS_LINE.match(first)
    if match is None:
        raise _UnusableServerError
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        # A line that begins with a blank continues the one before, in an old form of HTTP.
        if not colon or not name or name != name.strip():
            raise _UnusableServerError
        name, value = name.lower(), value.strip()
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return match[1], int(match[2]), headers


def _content_length(headers: Mapping[str, str]) -> int:
    """Return the number of bytes of the body, -1 if it is not stated."""
    length = headers.get("content-length", "")
    is_stated = length.isascii() and length.isdigit() and "transfer-encoding" not in headers
    return int(length) if is_stated else -1


def _read_rest(connection: socket.socket, start: bytes, num_bytes: int) -> bytes:
    """Return a whole body, given its start."""
    body = bytearray(num_bytes)
    body[: len(start)] = start
    with memoryview(body) as view:
        num_read = len(start)
        while num_read < num_bytes:
            count = connection.recv_into(view[num_read:])
            if not count:
                raise ConnectionResetError
            num_read += count
    return bytes(body)
