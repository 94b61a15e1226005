"""The HTTP server below the APIs of Kubeflow Pipelines and Kubernetes that tests run."""

import contextlib
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar, Self


@dataclass(frozen=True, kw_only=True)
class Answer:
    """HTTP status, body, content type and other headers."""

    status: int
    body: bytes
    kind: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, kw_only=True)
class StreamAnswer(Answer):
    """An answer whose body is sent in chunks; `body` is not used."""

    chunks: Iterable[bytes]


class HttpApi(ABC):
    """A server that runs at `address` while its `with` block does."""

    def __init__(self) -> None:
        handler = type("Handler", (_Handler,), {"api": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )

    @abstractmethod
    def answer(self, method: str, target: str, headers: Any, body: bytes) -> Answer:
        """Answer one request; `target` is the path with the query."""

    @property
    def address(self) -> str:
        """Return the URL of the server."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # one packet for headers and body: two would wait for each other
    disable_nagle_algorithm = True
    api: ClassVar[HttpApi]

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            answer = self.api.answer(self.command, self.path, self.headers, body)
        except Exception as err:  # noqa: BLE001 - a broken server answers 500
            text = f"{type(err).__name__}: {err}".encode()
            answer = Answer(status=500, body=text, kind="text/plain")
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.kind)
        for name, value in answer.headers:
            self.send_header(name, value)
        if isinstance(answer, StreamAnswer):
            self._send_chunks(answer)
            return
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        self.wfile.write(answer.body)

    do_POST = do_PUT = do_PATCH = do_DELETE = do_GET

    def log_message(self, *_: Any) -> None:
        """Print nothing."""

    def _send_chunks(self, answer: StreamAnswer) -> None:
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        with contextlib.suppress(ConnectionError):
            for chunk in (*answer.chunks, b""):
                self.wfile.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
                self.wfile.flush()
