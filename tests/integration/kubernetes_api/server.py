"""The HTTP side: who asks, whether he may, and the ways in which the server can be told to fail."""

import contextlib
import json
import re
import threading
import urllib.parse
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar, Protocol

from tests.integration.kubernetes_api.addresses import Target, read_target
from tests.integration.kubernetes_api.rules import ADMIN, ANONYMOUS, Attempt, Rules
from tests.integration.kubernetes_api.schemas import check_body
from tests.integration.kubernetes_api.status import Answer, Refusal, Stream, json_answer, plain
from tests.integration.kubernetes_api.store import Query, Store

ADMIN_TOKEN = "of-the-administrator"
_ACCOUNT = re.compile(r"system:serviceaccount:([^:]+):([^:]+)")


class HttpAnswer(Protocol):
    """What a service behind the proxy answers."""

    @property
    def status(self) -> int: ...

    @property
    def body(self) -> bytes: ...

    @property
    def kind(self) -> str: ...


Service = Callable[[str, str, Any, bytes], HttpAnswer]
"""Called with method, path with query, headers and body."""

PartHandler = Callable[[Target, Query, Any], Answer]
"""Called with what a request is about, its query and its body (JSON, or None)."""


class KubernetesApi:
    """A server at `address` from `with` to its end.

    Attributes:
        store: The objects.
        rules: Who may do what.
        users: Names of users by their bearer token.
        version: The version that it says it is.
        services: What answers behind the service proxy, by namespace and `<service>:<port name>`.
        parts: What answers for a part of an object, by plural and part, e.g. ("pods", "log").
        answers: Answers to give instead, by method and a pattern of the path; each is given once.
        before: Called with method and path before a request is answered; may take its time.
        requests: User, method and path of everything that was asked.
    """

    def __init__(self) -> None:
        self.store, self.rules = Store(), Rules()
        self.users = {ADMIN_TOKEN: ADMIN}
        self.version = "v1.36.0"
        self.services: dict[tuple[str, str], Service] = {}
        self.parts: dict[tuple[str, str], PartHandler] = {}
        self.answers: list[tuple[str, str, Answer]] = []
        self.before: Callable[[str, str], None] = lambda *_: None
        self.requests: list[tuple[str, str, str]] = []
        self._lock = threading.RLock()
        handler = type("Handler", (_HttpHandler,), {"api": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )

    @property
    def address(self) -> str:
        """Return its address."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def changes(self) -> list[tuple[str, str, str]]:
        """Return the requests that change something; a review is only a question."""
        return [
            found
            for found in self.requests
            if found[1] != "GET" and not found[2].endswith("reviews")
        ]

    def __enter__(self) -> "KubernetesApi":
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def answer(self, method: str, path_and_query: str, headers: Any, body: bytes) -> HttpAnswer:
        """Answer one request."""
        url = urllib.parse.urlsplit(path_and_query)
        path, query = (
            urllib.parse.unquote(url.path),
            dict(urllib.parse.parse_qsl(url.query, keep_blank_values=True)),
        )
        self.before(method, path)
        with self._lock:
            for index, (wanted, pattern, instead) in enumerate(self.answers):
                if wanted == method and re.search(pattern, path):
                    del self.answers[index]
                    return instead
            try:
                user = self._identify(headers)
                self.requests.append((user, method, path))
                if path == "/version":
                    return json_answer(
                        {
                            "gitVersion": self.version,
                            "major": "1",
                            "minor": self.version.split(".")[1],
                        }
                    )
                target = read_target(method, path, is_watch=query.get("watch") in ("true", "1"))
                self._admit(user, target)
                if target.part == "proxy":
                    return self._proxy(target, method, url.query, headers, body)
                facts = _read_json(body) if body else None
                return self._handle(user, target, query, facts, accept=headers.get("Accept", ""))
            except Refusal as err:
                return err.answer()

    def _identify(self, headers: Any) -> str:
        """Return who asks, or in whose name."""
        given = headers.get("Authorization", "")
        if not given:
            return ANONYMOUS
        user = self.users.get(given.removeprefix("Bearer "))
        if user is None:
            raise Refusal("Unauthorized", "Unauthorized")
        wanted: str | None = headers.get("Impersonate-User")
        if wanted is None:
            return user
        account = _ACCOUNT.fullmatch(wanted)
        resource, namespace, name = (
            ("serviceaccounts", account[1], account[2]) if account else ("users", "", wanted)
        )
        self._check(
            Attempt(
                user=user,
                verb="impersonate",
                group="",
                resource=resource,
                namespace=namespace,
                name=name,
            )
        )
        return wanted

    def _admit(self, user: str, target: Target) -> None:
        self._check(
            Attempt(
                user=user,
                verb=target.verb,
                group=target.resource.group,
                resource=f"{target.resource.plural}/{target.part}"
                if target.part
                else target.resource.plural,
                namespace=target.namespace,
                name=target.name,
            )
        )

    def _check(self, attempt: Attempt) -> None:
        if not self.rules.allow(attempt):
            raise Refusal("Forbidden", attempt.refusal())

    def _handle(
        self, user: str, target: Target, query: Query, facts: Any, *, accept: str
    ) -> Answer:
        if target.resource.plural.endswith("reviews"):
            check_body(facts, target.resource)
            return json_answer(self._review(user, facts), status=201)
        if target.part:
            handler = self.parts.get((target.resource.plural, target.part))
            if handler is None:
                raise Refusal("NotFound", "the server could not find the requested resource")
            return handler(target, query, facts)
        if target.verb == "list":
            return json_answer(self.store.list(target, query))
        if target.verb == "get":
            found = self.store.get(target)
            return json_answer(
                _metadata_of(found) if "as=PartialObjectMetadata" in accept else found
            )
        if target.verb == "create":
            return json_answer(self.store.create(target, facts), status=201)
        if target.verb == "delete":
            return json_answer(self.store.delete(target))
        raise Refusal(
            "MethodNotAllowed", "the server does not allow this method on the requested resource"
        )

    def _review(self, user: str, facts: dict[str, Any]) -> dict[str, Any]:
        if facts["kind"] == "SelfSubjectReview":
            return facts | {
                "status": {"userInfo": {"username": user, "groups": ["system:authenticated"]}}
            }
        asked = facts["spec"]["resourceAttributes"]
        part = asked.get("subresource", "")
        attempt = Attempt(
            user=user,
            verb=asked["verb"],
            group=asked.get("group", ""),
            resource=f"{asked['resource']}/{part}" if part else asked["resource"],
            namespace=asked.get("namespace", ""),
            name=asked.get("name", ""),
        )
        return facts | {"status": {"allowed": self.rules.allow(attempt)}}

    def _proxy(
        self, target: Target, method: str, query: str, headers: Any, body: bytes
    ) -> HttpAnswer:
        service = self.services.get((target.namespace, target.name))
        if service is None:
            name = target.name.partition(":")[0]
            raise Refusal("NotFound", f'services "{name}" not found')
        return service(method, f"{target.rest}?{query}" if query else target.rest, headers, body)


class _HttpHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # one packet for head and body: two would wait for each other
    disable_nagle_algorithm = True
    api: ClassVar[KubernetesApi]

    def do_GET(self) -> None:
        self._answer()

    do_POST = do_PUT = do_PATCH = do_DELETE = do_GET

    def log_message(self, *_: Any) -> None:
        """Keep quiet."""

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            answer = self.api.answer(self.command, self.path, self.headers, body)
        except Exception as err:  # noqa: BLE001 - a server that breaks answers 500
            answer = plain(f"{type(err).__name__}: {err}", status=500)
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.kind)
        if isinstance(answer, Stream):
            self._send_chunks(answer)
            return
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        self.wfile.write(answer.body)

    def _send_chunks(self, answer: Stream) -> None:
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        with contextlib.suppress(ConnectionError):
            for chunk in (*answer.chunks, b""):
                self.wfile.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
                self.wfile.flush()


def _read_json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError as err:
        raise Refusal("BadRequest", f"the body of the request must be JSON: {err}") from err


def _metadata_of(facts: dict[str, Any]) -> dict[str, Any]:
    return {
        "kind": "PartialObjectMetadata",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": facts["metadata"],
    }
