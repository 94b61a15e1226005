"""A real web server that answers as a test tells it to."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from repot.checkpoint_fetcher import downloads


class Web:
    """Answers by path; each answer is (status, body, promised length), the last one for ever.

    HEAD is answered for paths with an entry in `etags` ("" for no ETag), and leaves `requests` alone.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.answers: dict[str, list[tuple[int, bytes, int]]] = {}
        self.requests: list[str] = []
        self.etags: dict[str, str] = {}

    def serve(self, path: str, body: bytes, *, status: int = 200, length: int | None = None) -> str:
        self.answers.setdefault(path, []).append(
            (status, body, len(body) if length is None else length)
        )
        return self.url + path

    def next_answer(self, path: str) -> tuple[int, bytes, int]:
        self.requests.append(path)
        answers = self.answers.get(path.partition("?")[0], [(404, b"", 0)])
        return answers.pop(0) if len(answers) > 1 else answers[0]


@pytest.fixture
def web() -> Iterator[Web]:
    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            etag = served.etags.get(self.path)
            self.send_response(405 if etag is None else 200)
            if etag:
                self.send_header("ETag", etag)
            self.end_headers()

        def do_GET(self) -> None:
            status, body, length = served.next_answer(self.path)
            self.send_response(status)
            self.send_header("Content-Length", str(length))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    served = Web(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield served
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "PAUSES", (0.0, 0.0, 0.0))
