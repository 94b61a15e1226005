"""The first contact with the cluster: whether there is one, and who one is there."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from repot_pipelines.doctor.check import Check, broken, failed, not_checked, ok, problem
from repot_pipelines.doctor.cluster import Cluster, Greeting, greet, open_cluster
from repot_pipelines.doctor.cluster_errors import ClusterError
from repot_pipelines.doctor.kubeconfig import find_place

NAME = "cluster"


@dataclass(frozen=True, kw_only=True, slots=True)
class Meeting:
    """The first contact with the cluster.

    Attributes:
        check: How it went.
        cluster: The cluster; None if there is none that can be used.
        greeting: What it said; None if there is none that can be used.
    """

    check: Check
    cluster: Cluster | None = None
    greeting: Greeting | None = None


def meet(context: str, environment: Mapping[str, str], *, is_asked_for: bool) -> Meeting:
    """Find the cluster and ask it who it is.

    Args:
        context: Context of kubeconfig; "" for the current one.
        environment: Variables by name.
        is_asked_for: Whether an option is about the cluster; if not, having none is fine.
    """
    try:
        place = find_place(context, environment, Path.home())
        if place is None:
            return Meeting(check=_no_cluster(is_asked_for=is_asked_for))
        cluster = open_cluster(place)
        greeting = greet(cluster)
    except ClusterError as err:
        return Meeting(check=failed(NAME, err, fix="Look at kubeconfig."))
    except Exception as err:  # noqa: BLE001 - it must not hide what the other sections see
        return Meeting(check=broken(NAME, err))
    user = f", as {greeting.user}" if greeting.user else ""
    finding = f"{cluster.address}, {place.title}, Kubernetes {greeting.version}{user}"
    return Meeting(check=ok(NAME, finding), cluster=cluster, greeting=greeting)


def _no_cluster(*, is_asked_for: bool) -> Check:
    if not is_asked_for:
        return not_checked(NAME, "neither an option nor kubeconfig names one")
    return problem(
        NAME,
        "Options are about a cluster, and kubeconfig names none.",
        "Give --context, or set KUBECONFIG to the file that the cluster's tools write.",
    )
