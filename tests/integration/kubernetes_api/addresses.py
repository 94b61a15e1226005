"""Which resources there are, and what a path and a method mean."""

import re
from dataclasses import dataclass

from tests.integration.kubernetes_api.status import Refusal


@dataclass(frozen=True, kw_only=True)
class Resource:
    """A kind of objects."""

    group: str = ""
    version: str = "v1"
    plural: str
    kind: str
    is_namespaced: bool = True

    @property
    def api_version(self) -> str:
        """Return what objects have as apiVersion."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def title(self) -> str:
        """Return the plural as the server's messages spell it."""
        return f"{self.plural}.{self.group}" if self.group else self.plural


RESOURCES = (
    Resource(plural="namespaces", kind="Namespace", is_namespaced=False),
    Resource(plural="nodes", kind="Node", is_namespaced=False),
    Resource(plural="pods", kind="Pod"),
    Resource(plural="services", kind="Service"),
    Resource(plural="configmaps", kind="ConfigMap"),
    Resource(plural="secrets", kind="Secret"),
    Resource(plural="serviceaccounts", kind="ServiceAccount"),
    Resource(plural="resourcequotas", kind="ResourceQuota"),
    Resource(plural="events", kind="Event"),
    Resource(group="batch", plural="jobs", kind="Job"),
    Resource(
        group="authentication.k8s.io",
        plural="selfsubjectreviews",
        kind="SelfSubjectReview",
        is_namespaced=False,
    ),
    Resource(
        group="authorization.k8s.io",
        plural="selfsubjectaccessreviews",
        kind="SelfSubjectAccessReview",
        is_namespaced=False,
    ),
)
_BY_NAME = {(found.group, found.version, found.plural): found for found in RESOURCES}
_BY_KIND = {(found.api_version, found.kind): found for found in RESOURCES}
_PATH = re.compile(
    r"/(?:api|apis/(?P<group>[^/]+))/(?P<version>v[^/]+)(?:/namespaces/(?P<namespace>[^/]+)(?=/[^/]))?"
    r"/(?P<plural>[^/]+)(?:/(?P<name>[^/]+)(?:/(?P<part>[^/]+)(?P<rest>/.*)?)?)?"
)
_VERBS = {"GET": "get", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
_COLLECTION_VERBS = {"GET": "list", "POST": "create", "DELETE": "deletecollection"}


@dataclass(frozen=True, kw_only=True)
class Target:
    """What a request is about.

    Attributes:
        verb: As in roles: get, list, watch, create, update, patch, delete, deletecollection.
        resource: The kind of objects.
        namespace: "" for all, or for a resource that is in none.
        name: Of one object; "" for the collection.
        part: Of that object, e.g. log or status; "" for the whole.
        rest: What follows the part in the path, e.g. the path behind proxy.
    """

    verb: str
    resource: Resource
    namespace: str = ""
    name: str = ""
    part: str = ""
    rest: str = ""


def read_target(method: str, path: str, *, is_watch: bool = False) -> Target:
    """Return what a request is about."""
    at = _PATH.fullmatch(path)
    resource = _BY_NAME.get((at["group"] or "", at["version"], at["plural"])) if at else None
    if at is None or resource is None:
        raise Refusal("NotFound", "the server could not find the requested resource")
    verb = (_VERBS if at["name"] else _COLLECTION_VERBS).get(method)
    if verb is None:
        raise Refusal(
            "MethodNotAllowed", "the server does not allow this method on the requested resource"
        )
    return Target(
        verb="watch" if verb == "list" and is_watch else verb,
        resource=resource,
        namespace=at["namespace"] or (at["name"] or "" if resource.plural == "namespaces" else ""),
        name=at["name"] or "",
        part=at["part"] or "",
        rest=at["rest"] or "",
    )


def resource_of(facts: dict[str, object]) -> Resource:
    """Return the resource that an object is one of."""
    return _BY_KIND[(str(facts["apiVersion"]), str(facts["kind"]))]
