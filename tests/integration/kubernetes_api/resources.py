"""The resources of the API, and what the path and method of a request refer to."""

import re
from dataclasses import dataclass

from repot.kubernetes_rules import KubernetesObject
from tests.integration.kubernetes_api.status import ApiError


@dataclass(frozen=True, kw_only=True)
class Resource:
    """A resource type, e.g. pods."""

    group: str = ""
    version: str = "v1"
    plural: str
    kind: str
    is_namespaced: bool = True

    @property
    def api_version(self) -> str:
        """Return the apiVersion of its objects."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def title(self) -> str:
        """Return the plural as in the server's messages, e.g. jobs.batch."""
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
        group="admissionregistration.k8s.io",
        plural="validatingadmissionpolicies",
        kind="ValidatingAdmissionPolicy",
        is_namespaced=False,
    ),
    Resource(
        group="admissionregistration.k8s.io",
        plural="validatingadmissionpolicybindings",
        kind="ValidatingAdmissionPolicyBinding",
        is_namespaced=False,
    ),
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
_BY_NAME = {(each.group, each.version, each.plural): each for each in RESOURCES}
_BY_KIND = {(each.api_version, each.kind): each for each in RESOURCES}
_PATH = re.compile(
    r"/(?:api|apis/(?P<group>[^/]+))/(?P<version>v[^/]+)(?:/namespaces/(?P<namespace>[^/]+)(?=/[^/]))?"
    r"/(?P<plural>[^/]+)(?:/(?P<name>[^/]+)(?:/(?P<subresource>[^/]+)(?P<proxy_path>/.*)?)?)?"
)
_VERBS = {"GET": "get", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
_COLLECTION_VERBS = {"GET": "list", "POST": "create", "DELETE": "deletecollection"}


@dataclass(frozen=True, kw_only=True)
class Target:
    """What a request refers to.

    Attributes:
        verb: As in roles: get, list, watch, create, update, patch, delete, deletecollection.
        resource: The resource type.
        namespace: "" for all namespaces, or for a resource without namespaces.
        name: Name of one object; "" for the collection.
        subresource: E.g. log or status; "" for the object itself.
        proxy_path: Path after the subresource proxy.
    """

    verb: str
    resource: Resource
    namespace: str = ""
    name: str = ""
    subresource: str = ""
    proxy_path: str = ""


def read_target(method: str, path: str, *, is_watch: bool = False) -> Target:
    """Return what a request refers to."""
    match = _PATH.fullmatch(path)
    resource = (
        _BY_NAME.get((match["group"] or "", match["version"], match["plural"])) if match else None
    )
    if match is None or resource is None:
        raise ApiError("NotFound", "the server could not find the requested resource")
    verb = (_VERBS if match["name"] else _COLLECTION_VERBS).get(method)
    if verb is None:
        raise ApiError(
            "MethodNotAllowed", "the server does not allow this method on the requested resource"
        )
    return Target(
        verb="watch" if verb == "list" and is_watch else verb,
        resource=resource,
        namespace=match["namespace"]
        or (match["name"] or "" if resource.plural == "namespaces" else ""),
        name=match["name"] or "",
        subresource=match["subresource"] or "",
        proxy_path=match["proxy_path"] or "",
    )


def resource_of(stored: KubernetesObject) -> Resource:
    """Return the resource type of an object; KeyError if this server does not have it."""
    return _BY_KIND[(str(stored["apiVersion"]), str(stored["kind"]))]
