"""ResourceQuotas of the namespace that bound accelerators: a pod past one is not made at all."""

from collections.abc import Iterable

from repot_pipelines.doctor.check import Check, ok, problem, warning
from repot_pipelines.doctor.cluster import Cluster, Facts
from repot_pipelines.doctor.quantities import whole_number

NAME = "quota"


def list_quotas(cluster: Cluster, namespace: str) -> list[Facts]:
    """Return the ResourceQuotas of a namespace.

    Raises:
        ClusterError: One may not look.
    """
    return list(cluster.list_all("list quotas", f"/api/v1/namespaces/{namespace}/resourcequotas"))


def check_quotas(quotas: Iterable[Facts], *, accelerator_type: str, accelerator_count: int) -> Check:
    """Return whether the quotas leave room for the trainer's accelerators.

    Args:
        quotas: The ResourceQuotas of the namespace.
        accelerator_type: Resource name.
        accelerator_count: How many are asked for.
    """
    resource = f"requests.{accelerator_type}"
    bounds = [quota for quota in quotas if resource in (quota["spec"].get("hard") or {})]
    if not bounds:
        return ok(NAME, f"none bounds {accelerator_type}")
    room = min(bounds, key=lambda quota: _hard(quota, resource) - _used(quota, resource))
    hard, used = _hard(room, resource), _used(room, resource)
    name = room["metadata"]["name"]
    finding = f"{name} allows {hard} {accelerator_type}, {used} in use; {accelerator_count} asked for"
    if hard < accelerator_count:
        return problem(NAME, f"{finding}.", f"Ask for fewer, or have {name} raised.")
    if hard - used < accelerator_count:
        return warning(NAME, f"{finding}.", "Wait until others are done: the pod is refused until there is room.")
    return ok(NAME, finding)


def _hard(quota: Facts, resource: str) -> int:
    return whole_number(quota["spec"]["hard"][resource])


def _used(quota: Facts, resource: str) -> int:
    return whole_number(((quota.get("status") or {}).get("used") or {}).get(resource, 0))
