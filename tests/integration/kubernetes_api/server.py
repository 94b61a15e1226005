"""The HTTP server: authentication, authorisation, dispatch, and injected failures."""

import json
import re
import threading
import urllib.parse
from collections.abc import Callable
from typing import Any

from repot.kubernetes_rules import KubernetesObject
from tests.integration.http_api import Answer, HttpApi
from tests.integration.kubernetes_api.resources import Target, read_target
from tests.integration.kubernetes_api.rules import ADMIN, ANONYMOUS, AccessRequest, Rules
from tests.integration.kubernetes_api.schemas import check_body
from tests.integration.kubernetes_api.status import (
    ApiError,
    json_response,
)
from tests.integration.kubernetes_api.store import Query, Store

ADMIN_TOKEN = "of-the-administrator"
_ACCOUNT = re.compile(r"system:serviceaccount:([^:]+):([^:]+)")


Service = Callable[[str, str, Any, bytes], Answer]
"""Called with method, path with query, headers and body."""

SubresourceHandler = Callable[[Target, Query, Any], Answer]
"""Called with target, query and body (JSON, or None) of a request."""


class KubernetesApi(HttpApi):
    """The API of Kubernetes.

    Attributes:
        store: The objects.
        rules: Permissions of the users.
        users: User names by bearer token.
        version: The version that the server reports.
        services: Handlers behind the service proxy, by namespace and `<service>:<port name>`.
        subresources: Handlers by plural and subresource, e.g. ("pods", "log").
        answers: Responses to inject, by method and path pattern; each is used once.
        before: Called with method and path before a request is answered; may block.
        requests: User, method and path of all requests.
    """

    def __init__(self) -> None:
        super().__init__()
        self.store, self.rules = Store(), Rules()
        self.users = {ADMIN_TOKEN: ADMIN}
        self.version = "v1.36.0"
        self.services: dict[tuple[str, str], Service] = {}
        self.subresources: dict[tuple[str, str], SubresourceHandler] = {}
        self.answers: list[tuple[str, str, Answer]] = []
        self.before: Callable[[str, str], None] = lambda *_: None
        self.requests: list[tuple[str, str, str]] = []
        self._lock = threading.RLock()

    @property
    def changes(self) -> list[tuple[str, str, str]]:
        """Return the requests that change objects; access reviews do not."""
        return [
            request
            for request in self.requests
            if request[1] != "GET" and not request[2].endswith("reviews")
        ]

    def answer(self, method: str, target: str, headers: Any, body: bytes) -> Answer:
        """Answer one request."""
        url = urllib.parse.urlsplit(target)
        path, query = (
            urllib.parse.unquote(url.path),
            dict(urllib.parse.parse_qsl(url.query, keep_blank_values=True)),
        )
        self.before(method, path)
        with self._lock:
            for index, (expected, pattern, response) in enumerate(self.answers):
                if expected == method and re.search(pattern, path):
                    del self.answers[index]
                    return response
            try:
                user = self._authenticate(headers)
                self.requests.append((user, method, path))
                if path == "/version":
                    return json_response(
                        {
                            "gitVersion": self.version,
                            "major": "1",
                            "minor": self.version.split(".")[1],
                        }
                    )
                found = read_target(method, path, is_watch=query.get("watch") in ("true", "1"))
                self._authorise(user, found)
                if found.subresource == "proxy":
                    return self._proxy(found, method, url.query, headers, body)
                parsed = _read_json(body) if body else None
                return self._handle(user, found, query, parsed, accept=headers.get("Accept", ""))
            except ApiError as err:
                return err.response()

    def _authenticate(self, headers: Any) -> str:
        """Return the user, or the user that it impersonates."""
        authorization = headers.get("Authorization", "")
        if not authorization:
            return ANONYMOUS
        user = self.users.get(authorization.removeprefix("Bearer "))
        if user is None:
            raise ApiError("Unauthorized", "Unauthorized")
        impersonated: str | None = headers.get("Impersonate-User")
        if impersonated is None:
            return user
        account = _ACCOUNT.fullmatch(impersonated)
        resource, namespace, name = (
            ("serviceaccounts", account[1], account[2]) if account else ("users", "", impersonated)
        )
        self._check(
            AccessRequest(
                user=user,
                verb="impersonate",
                group="",
                resource=resource,
                namespace=namespace,
                name=name,
            )
        )
        return impersonated

    def _authorise(self, user: str, target: Target) -> None:
        self._check(
            AccessRequest(
                user=user,
                verb=target.verb,
                group=target.resource.group,
                resource=f"{target.resource.plural}/{target.subresource}"
                if target.subresource
                else target.resource.plural,
                namespace=target.namespace,
                name=target.name,
            )
        )

    def _check(self, request: AccessRequest) -> None:
        if not self.rules.allow(request):
            raise ApiError("Forbidden", request.forbidden_message())

    def _handle(self, user: str, target: Target, query: Query, body: Any, *, accept: str) -> Answer:
        if target.resource.plural.endswith("reviews"):
            check_body(body, target.resource)
            return json_response(self._review(user, body), status=201)
        if target.subresource:
            handler = self.subresources.get((target.resource.plural, target.subresource))
            if handler is None:
                raise ApiError("NotFound", "the server could not find the requested resource")
            return handler(target, query, body)
        if target.verb == "list":
            return json_response(self.store.list(target, query))
        if target.verb == "get":
            found = self.store.get(target)
            return json_response(
                _metadata_of(found) if "as=PartialObjectMetadata" in accept else found
            )
        if target.verb in ("create", "update"):
            write = self.store.create if target.verb == "create" else self.store.update
            return json_response(
                write(target, body), status=201 if target.verb == "create" else 200
            )
        if target.verb == "delete":
            return json_response(self.store.delete(target))
        raise ApiError(
            "MethodNotAllowed", "the server does not allow this method on the requested resource"
        )

    def _review(self, user: str, body: KubernetesObject) -> KubernetesObject:
        if body["kind"] == "SelfSubjectReview":
            return body | {
                "status": {"userInfo": {"username": user, "groups": ["system:authenticated"]}}
            }
        attributes = body["spec"]["resourceAttributes"]
        subresource = attributes.get("subresource", "")
        request = AccessRequest(
            user=user,
            verb=attributes["verb"],
            group=attributes.get("group", ""),
            resource=f"{attributes['resource']}/{subresource}"
            if subresource
            else attributes["resource"],
            namespace=attributes.get("namespace", ""),
            name=attributes.get("name", ""),
        )
        return body | {"status": {"allowed": self.rules.allow(request)}}

    def _proxy(self, target: Target, method: str, query: str, headers: Any, body: bytes) -> Answer:
        service = self.services.get((target.namespace, target.name))
        if service is None:
            name = target.name.partition(":")[0]
            raise ApiError("NotFound", f'services "{name}" not found')
        return service(
            method, f"{target.proxy_path}?{query}" if query else target.proxy_path, headers, body
        )


def _read_json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError as err:
        raise ApiError("BadRequest", f"the body of the request must be JSON: {err}") from err


def _metadata_of(stored: KubernetesObject) -> KubernetesObject:
    return {
        "kind": "PartialObjectMetadata",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": stored["metadata"],
    }
