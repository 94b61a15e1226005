"""A proxy in front of a real object store that injects faults between it and repot."""

import contextlib
import http.client
import itertools
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

Response = tuple[int, list[tuple[str, str]], bytes]
"""Status, headers and body."""
Fault = Callable[[Callable[[], Response]], Response | None]
"""Receives the function that forwards the request; None closes the connection."""

_CONNECTION_HEADERS = ("content-length", "transfer-encoding", "connection", "x-length")


class Request(NamedTuple):
    """A request that the proxy received."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class FaultyProxy(ThreadingHTTPServer):
    """Forwards and records requests, and applies the next fault of each method.

    Attributes:
        dropped_headers: Lower-case names of headers that are not forwarded.
        faults: The faults of the next requests, by method.
        requests: All requests so far.
    """

    daemon_threads = True

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint.removeprefix("http://")
        self.dropped_headers: set[str] = set()
        self.faults: dict[str, list[Fault]] = {}
        self.requests: list[Request] = []
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def refuse_every_second_request(self) -> None:
        """Answer 503 to every second request from the first on, so that each one is repeated."""
        numbers = itertools.count()

        def refuse(forward: Callable[[], Response]) -> Response:
            return forward() if next(numbers) % 2 else (503, [], b"")

        methods = ("GET", "HEAD", "POST", "PUT", "DELETE")
        self.faults = {method: [refuse] * 1000 for method in methods}

    def respond(self, request: Request) -> Response | None:
        self.requests.append(request)
        headers = {
            name: value
            for name, value in request.headers.items()
            if name.lower() not in self.dropped_headers
        }

        def forward() -> Response:
            connection = http.client.HTTPConnection(self.endpoint)
            connection.request(request.method, request.path, request.body, headers)
            response = connection.getresponse()
            whole: Response = (response.status, response.getheaders(), response.read())
            connection.close()
            return whole

        faults = self.faults.get(request.method)
        return faults.pop(0)(forward) if faults else forward()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FaultyProxy

    def handle_any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        response = self.server.respond(Request(self.command, self.path, dict(self.headers), body))
        if response is None:
            self.close_connection = True
            return
        status, headers, data = response
        values = {name.lower(): value for name, value in headers}
        head_length = values.get("content-length", "0") if self.command == "HEAD" else None
        length = head_length or values.get("x-length", str(len(data)))
        self.send_response(status)
        for name, value in headers:
            if name.lower() not in _CONNECTION_HEADERS:
                self.send_header(name, value)
        self.send_header("Content-Length", length)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)
        self.close_connection = head_length is None and length != str(len(data))

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = handle_any

    def log_message(self, *_args: Any) -> None:
        """Do not log."""


@contextlib.contextmanager
def run_proxy(endpoint: str) -> Iterator[FaultyProxy]:
    """Run a proxy in front of a server for the duration of the block."""
    with FaultyProxy(endpoint) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def lose_response(replacement: Fault) -> Fault:
    """Return the fault that forwards the request but replaces the response by another fault's."""

    def fault(forward: Callable[[], Response]) -> Response | None:
        forward()
        return replacement(forward)

    return fault


def drop_connection(forward: Callable[[], Response]) -> None:
    """Forward the request, then close the connection without a response."""
    forward()


def flip_bit(forward: Callable[[], Response]) -> Response:
    """Flip one bit in the first byte of the response."""
    status, headers, data = forward()
    return status, headers, bytes([data[0] ^ 1]) + data[1:]


def truncate(forward: Callable[[], Response]) -> Response:
    """Close the connection after half of the response."""
    status, headers, data = forward()
    return status, [*headers, ("X-Length", str(len(data)))], data[: len(data) // 2]
