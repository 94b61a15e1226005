"""A proxy before a real server that makes things go wrong between it and repot."""

import contextlib
import http.client
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

Answer = tuple[int, list[tuple[str, str]], bytes]
# Gets the function that asks the real server; None closes the connection without an answer.
Fault = Callable[[Callable[[], Answer]], Answer | None]

_OF_THE_CONNECTION = ("content-length", "transfer-encoding", "connection", "x-length")


class Request(NamedTuple):
    """A request that came by."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class FaultyProxy(ThreadingHTTPServer):
    """Forwards requests without the headers in `dropped`, keeps them, and spoils the next answers to a method.

    Attributes:
        dropped: Names of headers, in lower case.
        faults: What happens to the next requests of each method.
        requests: What came by.
    """

    daemon_threads = True

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint.removeprefix("http://")
        self.dropped: set[str] = set()
        self.faults: dict[str, list[Fault]] = {}
        self.requests: list[Request] = []
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def answer(self, request: Request) -> Answer | None:
        self.requests.append(request)
        headers = {
            name: value
            for name, value in request.headers.items()
            if name.lower() not in self.dropped
        }

        def ask() -> Answer:
            connection = http.client.HTTPConnection(self.endpoint)
            connection.request(request.method, request.path, request.body, headers)
            answer = connection.getresponse()
            whole: Answer = (answer.status, answer.getheaders(), answer.read())
            connection.close()
            return whole

        faults = self.faults.get(request.method)
        return faults.pop(0)(ask) if faults else ask()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FaultyProxy

    def handle_any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        answer = self.server.answer(Request(self.command, self.path, dict(self.headers), body))
        if answer is None:
            self.close_connection = True
            return
        status, headers, data = answer
        named = {name.lower(): value for name, value in headers}
        of_head = named.get("content-length", "0") if self.command == "HEAD" else None
        length = of_head or named.get("x-length", str(len(data)))
        self.send_response(status)
        for name, value in headers:
            if name.lower() not in _OF_THE_CONNECTION:
                self.send_header(name, value)
        self.send_header("Content-Length", length)
        self.end_headers()
        self.wfile.write(data)
        self.close_connection = of_head is None and length != str(len(data))

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = handle_any

    def log_message(self, *_args: Any) -> None:
        """Say nothing."""


@contextlib.contextmanager
def proxy_of(endpoint: str) -> Iterator[FaultyProxy]:
    """Run a proxy before a server for as long as the block takes."""
    with FaultyProxy(endpoint) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def lose_answer(refusal: Fault) -> Fault:
    """Return the fault that the service does what it is asked, and answers with a refusal."""

    def fault(ask: Callable[[], Answer]) -> Answer | None:
        ask()
        return refusal(ask)

    return fault


def hang_up(ask: Callable[[], Answer]) -> None:
    """Close the connection without an answer, after the service did what it was asked."""
    ask()


def flip_a_bit(ask: Callable[[], Answer]) -> Answer:
    """Damage the first byte of an answer."""
    status, headers, data = ask()
    return status, headers, bytes([data[0] ^ 1]) + data[1:]


def cut(ask: Callable[[], Answer]) -> Answer:
    """Close the connection in the middle of an answer."""
    status, headers, data = ask()
    return status, [*headers, ("X-Length", str(len(data)))], data[: len(data) // 2]
