"""A real web server whose replies a test sets."""

import contextlib
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class WebServer:
    """Replies by path; each reply is (status, body, announced length), and the last one repeats.

    HEAD succeeds for paths in `etags` ("" sends no ETag), and is not recorded in `requests`.

    Attributes:
        url: Address of the server, without a slash at the end.
        requests: Path and query of every GET and POST request.
        posts: Body of every POST request.
        etags: ETag by path.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.requests: list[str] = []
        self.posts: list[bytes] = []
        self.etags: dict[str, str] = {}
        self._replies: dict[str, list[tuple[int, bytes, int]]] = {}

    def serve(self, path: str, body: bytes, *, status: int = 200, length: int | None = None) -> str:
        """Add a reply for a path, and return the URL of the path."""
        announced = len(body) if length is None else length
        self._replies.setdefault(path, []).append((status, body, announced))
        return self.url + path

    def next_reply(self, path: str) -> tuple[int, bytes, int]:
        """Return the reply to the next request; removes it unless it is the last one."""
        self.requests.append(path)
        replies = self._replies.get(path.partition("?")[0], [(404, b"", 0)])
        return replies.pop(0) if len(replies) > 1 else replies[0]


@contextlib.contextmanager
def running_web_server(context: ssl.SSLContext | None = None) -> Iterator[WebServer]:
    """Run a server on a free port of this machine; with a context, it speaks TLS."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            etag = web.etags.get(self.path)
            self.send_response(405 if etag is None else 200)
            if etag:
                self.send_header("ETag", etag)
            self.end_headers()

        def do_POST(self) -> None:
            web.posts.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.do_GET()

        def do_GET(self) -> None:
            status, body, length = web.next_reply(self.path)
            self.send_response(status)
            self.send_header("Content-Length", str(length))
            self.end_headers()
            with contextlib.suppress(ConnectionError):  # the client may refuse the rest
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    web = WebServer(f"http{'s' if context else ''}://127.0.0.1:{server.server_port}")
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield web
    server.shutdown()
    server.server_close()
    thread.join()
