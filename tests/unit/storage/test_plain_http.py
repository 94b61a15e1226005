"""GET requests over sockets, against servers that answer with given bytes."""

import contextlib
import gc
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from repot.storage import plain_http, retries
from repot.storage.plain_http import Response, Server, is_behind_proxy, send_within_limit
from repot.storage.retries import NUM_CONNECTIONS, ServiceState
from tests.certificates import Authority

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nX-Hash: a=1\r\nx-hash:b=2\r\n\r\nbody"


class AnsweringServer:
    """Answers the requests of each connection with given bytes, then closes it.

    Attributes:
        requests: What it received, one text for each request.
        num_connections: How many connections it accepted.
    """

    def __init__(self, *connections: list[bytes], context: ssl.SSLContext | None = None) -> None:
        self.requests: list[str] = []
        self.num_connections = 0
        self._connections = list(connections)
        self._context = context
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._run, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _run(self) -> None:
        for answers in self._connections:
            try:
                connection = self._listener.accept()[0]
            except OSError:
                return
            self.num_connections += 1
            with contextlib.suppress(OSError):
                if self._context is not None:
                    connection = self._context.wrap_socket(connection, server_side=True)
                with connection:
                    self._answer(connection, answers)

    def _answer(self, connection: socket.socket, answers: list[bytes]) -> None:
        for answer in answers:
            request = b""
            while not request.endswith(b"\r\n\r\n"):
                block = connection.recv(1 << 16)
                if not block:
                    return
                request += block
            self.requests.append(request.decode())
            # What belongs together arrives in parts.
            for start in range(0, 105, 7):
                connection.sendall(answer[start : start + 7])
            connection.sendall(answer[105:])


@contextlib.contextmanager
def answering(*connections: list[bytes]) -> Iterator[tuple[AnsweringServer, Server]]:
    server = AnsweringServer(*connections)
    yield server, Server(server.url, ca_path="")
    server.close()


def get(server: Server, target: str = "/x", **headers: str) -> Response | None:
    return server.get(target, headers, read_seconds=5.0)


def test_response_has_status_headers_and_body() -> None:
    with answering([OK]) as (store, server):
        response = get(server, "/a%20b?c=d", Range="bytes=0-3")
    assert response == Response(
        status=200, headers={"content-length": "4", "x-hash": "a=1, b=2"}, body=b"body"
    )
    assert store.requests == [
        f"GET /a%20b?c=d HTTP/1.1\r\nHost: {server.host}\r\nRange: bytes=0-3\r\n\r\n"
    ]


def test_response_to_head_has_no_body() -> None:
    with answering([OK[:-4], OK]) as (store, server):
        response = server.get("/x", {}, read_seconds=5.0, has_body=False)
        assert get(server) is not None
    assert response == Response(
        status=200, headers={"content-length": "4", "x-hash": "a=1, b=2"}, body=b""
    )
    assert [request.split()[0] for request in store.requests] == ["HEAD", "GET"]
    assert store.num_connections == 1


def test_connection_is_used_again() -> None:
    with answering([OK, OK, OK]) as (store, server):
        assert [get(server) for _ in range(3)].count(None) == 0
    assert store.num_connections == 1


@pytest.mark.parametrize(
    "last",
    [
        OK.replace(b"X-Hash: a=1", b"Connection: Close"),
        OK.replace(b"HTTP/1.1", b"HTTP/1.0"),
    ],
)
def test_connection_that_the_server_will_close_is_not_used_again(last: bytes) -> None:
    with answering([last], [OK]) as (store, server):
        assert get(server) is not None
        assert list(server._idle) == []
        assert get(server) is not None
    assert store.num_connections == 2


def test_idle_connections_that_were_closed_are_replaced() -> None:
    with answering([OK], [OK]) as (store, server):
        assert get(server) is not None
        assert get(server) is not None
    assert (store.num_connections, len(store.requests)) == (2, 2)


@pytest.mark.parametrize(
    "answer",
    [
        OK[:-1],
        OK[:30],
        b"",
    ],
)
def test_response_that_ends_early_is_left_to_the_client(answer: bytes) -> None:
    with answering([answer], [OK]) as (_, server):
        assert get(server) is None
        assert get(server) is not None


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\nbody",
        b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nContent-Length: 4\r\n\r\nbody",
        b"HTTP/1.1 200 OK\r\nContent-Length: -4\r\n\r\nbody",
        b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n folded\r\n\r\nbody",
        b"HTTP/1.1 200 OK\r\nContent-Length : 4\r\n\r\nbody",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nbody",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/2 200 OK\r\nContent-Length: 4\r\n\r\nbody",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * (2 << 16),
    ],
    ids=lambda answer: answer[9:60].decode().replace("\r\n", " "),
)
def test_server_with_other_responses_is_left_to_the_client_for_a_while(
    answer: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    with answering([answer], [OK]) as (store, server):
        assert get(server) is None
        assert get(server) is None
        assert store.num_connections == 1
        now = time.monotonic()
        monkeypatch.setattr(time, "monotonic", lambda: now + 61)
        assert get(server) is not None


def test_long_body_is_left_to_the_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain_http, "MAX_BODY_BYTES", 3)
    with answering([OK], [OK]) as (_, server):
        assert get(server) is None
        monkeypatch.undo()
        assert get(server) is not None


def test_error_without_a_length_has_a_status() -> None:
    refusal = b"HTTP/1.1 503 Slow Down\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    with answering([refusal], [OK]) as (_, server):
        response = get(server)
        assert response is not None
        assert response.status == 503
        assert not response.is_answer(to_range=False)
        assert get(server) is not None


def test_silent_server_is_left_to_the_client() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = Server(f"http://127.0.0.1:{listener.getsockname()[1]}", ca_path="")
        assert server.get("/x", {}, read_seconds=0.05) is None


def test_unreachable_server_is_not_tried_for_each_request() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    server = Server(url, ca_path="")
    assert get(server) is None
    with socket.create_server(("127.0.0.1", int(url.rpartition(":")[2]))) as listener:
        listener.setblocking(False)
        assert get(server) is None
        with pytest.raises(BlockingIOError):
            listener.accept()


@pytest.mark.parametrize("value", ["a\r\nX: b", "a\nb", "a\rb", "ä"])
def test_value_that_is_no_header_is_not_sent(value: str) -> None:
    with answering([OK]) as (store, server):
        assert get(server, Authorization=value) is None
    assert store.requests == []


@pytest.mark.parametrize("trusted", [True, False])
def test_certificate_is_checked(trusted: bool, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    authority, other = Authority(tmp_path), Authority(tmp_path / "other")
    store = AnsweringServer([OK, OK], context=authority.server_context())
    ca_path = authority.path if trusted else other.path
    server = Server(store.url.replace("http:", "https:"), ca_path=str(ca_path))
    assert (get(server) is not None) == trusted
    store.close()


def test_connections_are_closed_with_their_server() -> None:
    def idle_connection() -> socket.socket:
        with answering([OK, OK]) as (_, server):
            get(server)
            return server._idle[0]

    connection = idle_connection()
    gc.collect()
    assert connection.fileno() == -1


def test_host_has_a_port_only_if_it_is_not_the_usual_one() -> None:
    hosts = [
        Server(url, ca_path="").host
        for url in ("http://a.test", "http://a.test:80/x", "http://a.test:81", "http://[::1]:9000")
    ]
    assert hosts == ["a.test", "a.test", "a.test:81", "[::1]:9000"]


def test_refusal_lowers_the_limit_and_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(retries, "_sleep", pauses.append)
    state = ServiceState()
    refusal = Response(status=429, headers={"retry-after": "0"}, body=b"")

    assert send_within_limit(lambda: refusal, state) == refusal

    assert len(pauses) == 1
    assert state.limit.value < NUM_CONNECTIONS
    lowered = state.limit.value
    send_within_limit(lambda: Response(status=200, headers={}, body=b""), state)
    send_within_limit(lambda: None, state)
    assert len(pauses) == 1
    assert state.limit.value > lowered


def test_proxy_of_the_environment_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    assert not is_behind_proxy("https://a.test")
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.test")
    assert is_behind_proxy("https://a.test")
    monkeypatch.setenv("NO_PROXY", "a.test")
    assert not is_behind_proxy("https://a.test")
