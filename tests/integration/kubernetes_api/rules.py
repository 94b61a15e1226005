"""Who may do what: the rules of roles, and the answer when nobody granted it."""

from dataclasses import dataclass, field
from typing import Any

ADMIN = "kubernetes-admin"
ANONYMOUS = "system:anonymous"
# What system:basic-user grants to everybody who is somebody.
_OF_EVERYBODY = {
    ("create", "authentication.k8s.io", "selfsubjectreviews"),
    ("create", "authorization.k8s.io", "selfsubjectaccessreviews"),
}


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """What somebody wants to do; `resource` has "/" before a part, e.g. pods/log."""

    user: str
    verb: str
    group: str
    resource: str
    namespace: str = ""
    name: str = ""

    def refusal(self) -> str:
        """Return the sentence of the real server."""
        kind = f"{self.resource}.{self.group}" if self.group else self.resource
        subject = f"{kind} {_quoted(self.name)}" if self.name else kind
        where = (
            f"in the namespace {_quoted(self.namespace)}"
            if self.namespace
            else "at the cluster scope"
        )
        return (
            f"{subject} is forbidden: User {_quoted(self.user)} cannot {self.verb} resource {_quoted(self.resource)} "
            f"in API group {_quoted(self.group)} {where}"
        )


@dataclass(frozen=True, kw_only=True)
class _Grant:
    user: str
    namespace: str
    rule: dict[str, Any]

    def covers(self, attempt: Attempt) -> bool:
        if self.user != attempt.user or self.namespace not in ("", attempt.namespace):
            return False
        names = self.rule.get("resourceNames")
        return (
            _has(self.rule["verbs"], attempt.verb)
            and _has(self.rule["apiGroups"], attempt.group)
            and _has(self.rule["resources"], attempt.resource)
            and (not names or attempt.name in names)
        )


@dataclass(kw_only=True)
class Rules:
    """All that was granted; the administrator may do everything."""

    grants: list[_Grant] = field(default_factory=list)

    def grant(self, user: str, role: dict[str, Any], *, namespace: str = "") -> None:
        """Bind a Role or ClusterRole, as the manifest has it, to a user.

        Args:
            user: The user's name.
            role: The manifest.
            namespace: Where it holds; "" for everywhere.
        """
        self.grants += [_Grant(user=user, namespace=namespace, rule=rule) for rule in role["rules"]]

    def allow(self, attempt: Attempt) -> bool:
        """Return whether somebody may do that."""
        if attempt.user == ADMIN:
            return True
        if (
            attempt.user != ANONYMOUS
            and (attempt.verb, attempt.group, attempt.resource) in _OF_EVERYBODY
        ):
            return True
        return any(grant.covers(attempt) for grant in self.grants)


def role(verbs: str, *resources: str, group: str = "") -> dict[str, Any]:
    """Return a role with one rule, its verbs in one text with blanks between."""
    return {"rules": [{"apiGroups": [group], "resources": list(resources), "verbs": verbs.split()}]}


def _has(granted: list[str], wanted: str) -> bool:
    return "*" in granted or wanted in granted


def _quoted(text: str) -> str:
    return f'"{text}"'
