"""Role-based access control: granted rules, and the message for a forbidden request."""

from dataclasses import dataclass, field

from repot.kubernetes_rules import KubernetesObject

ADMIN = "kubernetes-admin"
ANONYMOUS = "system:anonymous"
# system:basic-user grants these to every authenticated user.
_GRANTED_TO_ALL = {
    ("create", "authentication.k8s.io", "selfsubjectreviews"),
    ("create", "authorization.k8s.io", "selfsubjectaccessreviews"),
}


@dataclass(frozen=True, kw_only=True)
class AccessRequest:
    """A user, a verb and a resource; with a subresource after "/", e.g. pods/log."""

    user: str
    verb: str
    group: str
    resource: str
    namespace: str = ""
    name: str = ""

    def forbidden_message(self) -> str:
        """Return the message of the real server."""
        kind = f"{self.resource}.{self.group}" if self.group else self.resource
        subject = f"{kind} {_quoted(self.name)}" if self.name else kind
        where = (
            f"in the namespace {_quoted(self.namespace)}"
            if self.namespace
            else "at the cluster scope"
        )
        return (
            f"{subject} is forbidden: User {_quoted(self.user)} cannot {self.verb} resource "
            f"{_quoted(self.resource)} in API group {_quoted(self.group)} {where}"
        )


@dataclass(frozen=True, kw_only=True)
class _Grant:
    user: str
    namespace: str
    rule: KubernetesObject

    def covers(self, request: AccessRequest) -> bool:
        if self.user != request.user or self.namespace not in ("", request.namespace):
            return False
        names = self.rule.get("resourceNames")
        return (
            _has(self.rule["verbs"], request.verb)
            and _has(self.rule["apiGroups"], request.group)
            and _has(self.rule["resources"], request.resource)
            and (not names or request.name in names)
        )


@dataclass(kw_only=True)
class Rules:
    """All granted rules; the administrator is allowed everything."""

    grants: list[_Grant] = field(default_factory=list)

    def grant(self, user: str, role: KubernetesObject, *, namespace: str = "") -> None:
        """Bind a Role or ClusterRole to a user.

        Args:
            user: The user's name.
            role: The manifest.
            namespace: Namespace of the binding; "" for all.
        """
        self.grants += [_Grant(user=user, namespace=namespace, rule=rule) for rule in role["rules"]]

    def allow(self, request: AccessRequest) -> bool:
        """Return whether a request is allowed."""
        if request.user == ADMIN:
            return True
        if (
            request.user != ANONYMOUS
            and (request.verb, request.group, request.resource) in _GRANTED_TO_ALL
        ):
            return True
        return any(grant.covers(request) for grant in self.grants)


def role(verbs: str, *resources: str, group: str = "") -> KubernetesObject:
    """Return a role with one rule; its verbs are separated by spaces."""
    return {"rules": [{"apiGroups": [group], "resources": list(resources), "verbs": verbs.split()}]}


def _has(granted: list[str], requested: str) -> bool:
    return "*" in granted or requested in granted


def _quoted(text: str) -> str:
    return f'"{text}"'
