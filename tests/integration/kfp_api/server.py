"""The HTTP server: routes, authentication, and failures that a test can inject."""

import json
import re
import threading
import urllib.parse
from collections.abc import Callable
from email.message import EmailMessage
from email.parser import BytesParser
from email.policy import HTTP
from typing import Any

from tests.integration.http_api import Answer, HttpApi
from tests.integration.kfp_api.answers import (
    ApiError,
    json_answer,
    plain,
    upload_error,
    web_page,
)
from tests.integration.kfp_api.lists import Query
from tests.integration.kfp_api.store import Store

API = "/apis/v2beta1"
_Handler = Callable[[Store, "re.Match[str]", Query, Any], Any]

_ROUTES: list[tuple[str, str, _Handler]] = [
    ("GET", "/pipelines", lambda store, _, query, __: store.list_pipelines(query)),
    ("POST", "/pipelines", lambda store, _, __, body: store.create_pipeline(body)),
    ("DELETE", "/pipelines/([^/]+)", lambda store, at, _, __: store.delete_pipeline(at[1])),
    (
        "GET",
        "/pipelines/([^/]+)/versions",
        lambda store, at, query, _: store.list_versions(at[1], query),
    ),
    (
        "GET",
        "/pipelines/([^/]+)/versions/([^/]+)",
        lambda store, at, _, __: store.get_version(at[2]),
    ),
    ("GET", "/experiments", lambda store, _, query, __: store.list_experiments(query)),
    ("POST", "/experiments", lambda store, _, __, body: store.create_experiment(body)),
    ("GET", "/runs", lambda store, _, query, __: store.list_runs(query)),
    ("POST", "/runs", lambda store, _, __, body: store.create_run(body)),
    ("GET", "/runs/([^/:]+)", lambda store, at, _, __: store.get_run(at[1])),
    (
        "POST",
        "/runs/([^/:]+):terminate",
        lambda store, at, _, __: store.terminate_run(at[1]),
    ),
    ("GET", "/recurringruns", lambda store, _, query, __: store.list_schedules(query)),
    ("POST", "/recurringruns", lambda store, _, __, body: store.create_schedule(body)),
    (
        "POST",
        "/recurringruns/([^/:]+):enable",
        lambda store, at, _, __: store.set_schedule(at[1], enabled=True),
    ),
    (
        "POST",
        "/recurringruns/([^/:]+):disable",
        lambda store, at, _, __: store.set_schedule(at[1], enabled=False),
    ),
    (
        "DELETE",
        "/recurringruns/([^/:]+)",
        lambda store, at, query, _: store.delete_schedule(at[1], query),
    ),
]


class KfpApi(HttpApi):
    """The API of Kubeflow Pipelines.

    Attributes:
        store: The server's state.
        tag: The version that the server reports.
        token, cookie: Credentials that it requires; "" for none.
        denied: Namespaces that are forbidden to everyone.
        is_ui: Whether this is the UI in front of the API: it has another health answer, and logs
            at another path.
        has_logs: Whether it returns logs.
        pods, events: What the UI returns about a pod, by its name.
        has_v1: Whether it still serves the old API, as all releases until now do.
        prefix: Prefix of every path, e.g. that of the Kubernetes API's service proxy.
        answers: Answers to give instead of the real ones: method, pattern of the path, answer.
            Each is used once.
        before: Called for every accepted request, before it is answered, with the number of the
            request, its method and its path.
        requests: Method and path of every request so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.store = Store()
        self.tag = "2.17.0"
        self.token = self.cookie = ""
        self.denied: tuple[str, ...] = ()
        self.is_ui = False
        self.has_logs = True
        self.has_v1 = True
        self.pods: dict[str, Any] = {}
        self.events: dict[str, list[Any]] = {}
        self.prefix = ""
        self.answers: list[tuple[str, str, Answer]] = []
        self.before: Callable[[int, str, str], None] = lambda *_: None
        self.requests: list[tuple[str, str]] = []
        self._lock = threading.Lock()

    @property
    def changes(self) -> list[tuple[str, str]]:
        """Return the requests that are not GET."""
        return [(method, path) for method, path in self.requests if method != "GET"]

    def answer(self, method: str, target: str, headers: Any, body: bytes) -> Answer:
        """Answer one request."""
        url = urllib.parse.urlsplit(target)
        path, query = url.path, dict(urllib.parse.parse_qsl(url.query, keep_blank_values=True))
        if not path.startswith(self.prefix):
            return plain("404 page not found", status=404)
        path = path.removeprefix(self.prefix)
        with self._lock:
            self.requests.append((method, path))
            for index, (injected_method, pattern, injected) in enumerate(self.answers):
                if injected_method == method and re.search(pattern, path):
                    del self.answers[index]
                    return injected
            try:
                self._authorize(headers, query, body)
                self.before(len(self.requests), method, path)
                return self._route(method, path, query, headers, body)
            except ApiError as err:
                return err.answer()
            except _LoginPageError:
                return web_page()

    def _authorize(self, headers: Any, query: Query, body: bytes) -> None:
        if self.cookie and headers.get("Cookie") != self.cookie:
            raise _LoginPageError
        if self.token and headers.get("Authorization") != f"Bearer {self.token}":
            raise ApiError(
                "unauthenticated", "Request header error: there is no user identity header."
            )
        is_json = body and "json" in headers.get("Content-Type", "")
        namespace = query.get("namespace") or (json.loads(body).get("namespace") if is_json else "")
        if namespace in self.denied:
            raise ApiError(
                "denied", f"User 'somebody' is not authorized with reason: (namespace {namespace})"
            )

    def _route(self, method: str, path: str, query: Query, headers: Any, body: bytes) -> Answer:
        if path == f"{API}/healthz":
            return self._healthz()
        if path == f"{API}/pipelines/upload_version" and method == "POST":
            return self._upload(query, headers, body)
        if "/log" in path or path.startswith("/k8s/pod"):
            is_info = self.is_ui and not path.endswith("/logs")
            return self._pod_info(path, query) if is_info else self._log(path, query)
        of_run = re.fullmatch(r"/apis/v1beta1/runs/([^/:]+)", path)
        if of_run and method == "GET" and self.has_v1:
            return json_answer(self.store.get_run_v1(of_run[1]))
        for route_method, pattern, handler in _ROUTES:
            at = re.fullmatch(API + pattern, path)
            if route_method == method and at:
                content = json.loads(body) if body else {}
                return json_answer(handler(self.store, at, query, content))
        return plain("404 page not found", status=404)

    def _healthz(self) -> Answer:
        store = self.store
        if self.is_ui:
            health = {
                "apiServerReady": True,
                "apiServerTagName": self.tag,
                "apiServerMultiUser": store.is_multi_user,
                "pipelineStore": store.pipeline_store,
            }
        else:
            health = {
                "commit_sha": "abc",
                "tag_name": self.tag,
                "multi_user": store.is_multi_user,
                "pipeline_store": store.pipeline_store,
            }
        return json_answer(health)

    def _upload(self, query: Query, headers: Any, body: bytes) -> Answer:
        text = _uploaded_file(headers.get("Content-Type", ""), body)
        if text is None or "pipelineid" not in query:
            return upload_error("Failed to create a pipeline version", status=400)
        try:
            version = self.store.upload_version(
                query["pipelineid"], query.get("name", ""), query.get("description", ""), text
            )
        except ApiError as err:
            status = err.status if err.status in (400, 409) else 400
            return upload_error(str(err), status=status)
        return json_answer(version)

    def _pod_info(self, path: str, query: Query) -> Answer:
        """Return a pod or its events, which the UI reads with its own rights."""
        pod = query.get("podname", "")
        found = self.pods.get(pod) if path == "/k8s/pod" else {"items": self.events.get(pod, [])}
        if found is None:
            return plain(f"Could not get pod {pod} in namespace kubeflow", status=500)
        # Express labels every text as HTML.
        return Answer(status=200, body=json.dumps(found).encode(), kind="text/html; charset=utf-8")

    def _log(self, path: str, query: Query) -> Answer:
        if self.is_ui and path == "/k8s/pod/logs":
            pod = query.get("podname", "")
            if self.has_logs and pod in self.store.logs:
                return plain(self.store.logs[pod])
            return plain("Could not get main container logs: Error: not found", status=500)
        at = re.fullmatch(r"/apis/v1alpha1/runs/([^/]+)/nodes/([^/]+)/log", path)
        if at is None or self.is_ui:
            return web_page()
        if self.has_logs and at[2] in self.store.logs:
            return plain(self.store.logs[at[2]])
        # The real server sends status 200 before it looks for the pod.
        return Answer(
            status=200,
            body=json.dumps(
                {"error_message": "Failed to read logs", "error_details": "..."}
            ).encode(),
        )


class _LoginPageError(Exception):
    """The proxy in front of the server redirects to its login page."""


def _uploaded_file(kind: str, body: bytes) -> str | None:
    """Return the text of the file `uploadfile` in a multipart form, or None."""
    message = BytesParser(EmailMessage, policy=HTTP).parsebytes(
        f"Content-Type: {kind}\r\n\r\n".encode() + body
    )
    for part in message.iter_parts() if message.is_multipart() else ():
        if part.get_param("name", header="content-disposition") == "uploadfile":
            content = part.get_payload(decode=True)
            return content.decode() if isinstance(content, bytes) else None
    return None
