"""What the run's service account must be allowed to do, and asking the cluster whether it is.

The question is a SelfSubjectAccessReview in the account's name, as `kubectl auth can-i --as` asks it: the answer covers
whatever decides in that cluster, not only roles.
"""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from repot_pipelines.doctor.check import Check, ok, problem, warning
from repot_pipelines.doctor.cluster import Cluster
from repot_pipelines.doctor.cluster_errors import ForbiddenError

APPLY = (
    "kubectl apply -k manifests/overlays/OVERLAY, with the overlay that fits (manifests/README.md)."
)
_PATH = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
_NUM_THREADS = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Right:
    """What an account may do to objects of one kind in its namespace.

    Attributes:
        group: API group; "" for the core.
        resource: Plural, with "/" before a part of it, e.g. pods/log.
        verbs: What it may do.
        name: The one object that is meant; "" for all.
    """

    group: str = ""
    resource: str
    verbs: tuple[str, ...]
    name: str = ""


RUN_RIGHTS = (
    Right(resource="configmaps", verbs=("get",), name="kfp-launcher"),
    Right(resource="pods", verbs=("get", "list", "watch")),
    Right(group="argoproj.io", resource="workflowtaskresults", verbs=("create", "patch")),
)
"""What KFP's driver and launcher and Argo's executor do in the pods of a run."""
JOB_RIGHTS = (
    Right(group="batch", resource="jobs", verbs=("create", "get", "list", "watch", "delete")),
    Right(resource="services", verbs=("create", "get", "delete")),
    Right(resource="pods/log", verbs=("get",)),
    Right(resource="events", verbs=("list",)),
)
"""What the trainer task does where training is a Job."""


def secret_rights(names: Iterable[str]) -> tuple[Right, ...]:
    """Return what KFP's launcher needs for the keys of its store: it reads them in the name of the run."""
    return tuple(Right(resource="secrets", verbs=("get",), name=name) for name in names)


def account_user(namespace: str, account: str) -> str:
    """Return the user name of a service account."""
    return f"system:serviceaccount:{namespace}:{account}"


def check_rights(
    cluster: Cluster,
    namespace: str,
    account: str,
    rights: tuple[Right, ...],
    *,
    title: str,
    me: str,
) -> Check:
    """Return whether a service account has all of these rights in its namespace.

    Args:
        cluster: The cluster.
        namespace: Namespace of the account.
        account: Its name.
        rights: What it needs.
        title: What they are for.
        me: User name of who asks.

    Raises:
        ClusterError: The cluster did not answer.
    """
    user = account_user(namespace, account)
    try:
        missing = _missing_rights(cluster, namespace, rights, as_user="" if user == me else user)
    except ForbiddenError:
        example = f"kubectl auth can-i {rights[0].verbs[0]} {_spelled(rights[0])} -n {namespace} --as {user}"
        return warning(
            title,
            f"What {account} may do cannot be asked: you may not impersonate it.",
            f"Let somebody with the role edit in {namespace} run `repot doctor`, or ask e.g. `{example}`.",
        )
    if missing:
        return problem(title, f"{account} must also be allowed to {', '.join(missing)}.", APPLY)
    return ok(title, f"{account} may {', '.join(_told(right, right.verbs) for right in rights)}")


def _missing_rights(
    cluster: Cluster, namespace: str, rights: tuple[Right, ...], *, as_user: str
) -> list[str]:
    asked = [(right, verb) for right in rights for verb in right.verbs]
    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        answers = list(
            pool.map(lambda pair: _is_allowed(cluster, namespace, *pair, as_user=as_user), asked)
        )
    denied = [pair for pair, is_allowed in zip(asked, answers, strict=True) if not is_allowed]
    lacking = {right: tuple(verb for of, verb in denied if of == right) for right, _ in denied}
    return [_told(right, verbs) for right, verbs in lacking.items()]


def _is_allowed(cluster: Cluster, namespace: str, right: Right, verb: str, *, as_user: str) -> bool:
    resource, _, part = right.resource.partition("/")
    attributes = {"namespace": namespace, "verb": verb, "group": right.group, "resource": resource}
    question = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": attributes | {"subresource": part, "name": right.name}},
    }
    answer = cluster.ask("ask for rights", _PATH, question, as_user=as_user)
    return bool(answer["status"]["allowed"])


def _told(right: Right, verbs: tuple[str, ...]) -> str:
    return f"{'/'.join(verbs)} {_spelled(right)}{f' {right.name}' if right.name else ''}"


def _spelled(right: Right) -> str:
    """Return the resource as kubectl spells it."""
    return f"{right.resource}.{right.group}" if right.group else right.resource
