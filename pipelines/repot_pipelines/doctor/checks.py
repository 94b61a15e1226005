"""All that `repot doctor` looks at, section by section, in the order in which a run needs it."""

import importlib.metadata
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from repot import storage
from repot_pipelines.doctor import kfp_access, machine, packages, shipped, storage_access
from repot_pipelines.doctor.accelerators import Placement
from repot_pipelines.doctor.check import PROBLEM, Check, guarded, not_checked
from repot_pipelines.doctor.cluster import Meeting, meet
from repot_pipelines.doctor.cluster_section import Wanted, check_cluster

if TYPE_CHECKING:
    from repot_pipelines.kfp_server.access import Access

MACHINE, STORAGE, SERVER, CLUSTER = "this machine", "storage", "Kubeflow Pipelines", "cluster"


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """What is asked about.

    Attributes:
        storage_uri: Folder that everything is to be written to, in normal form; "" for none.
        access: Where Kubeflow Pipelines is, and with which right one comes.
        namespace: Namespace of the runs; "" for that of Kubeflow Pipelines.
        service_account: Service account of a run's pods; "" for the usual one.
        placement: What the trainer's pod asks for; None where that is not known.
        is_about_cluster: Whether an option is about the cluster.
        shipped: The compiled pipeline.
    """

    storage_uri: str
    access: "Access"
    namespace: str
    service_account: str
    placement: Placement | None
    is_about_cluster: bool
    shipped: shipped.Shipped


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """What was found out about one part.

    Attributes:
        title: The part.
        checks: One result for each thing that was looked at.
    """

    title: str
    checks: tuple[Check, ...]


def examine(question: Question, environment: Mapping[str, str]) -> Iterator[Section]:
    """Yield each section as soon as it is known.

    Args:
        question: What is asked about.
        environment: Variables by name.
    """
    yield _section(MACHINE, _check_machine(question))
    yield _section(STORAGE, _check_storage(question, environment))
    meeting = meet(
        question.access.kube_context, environment, is_asked_for=question.is_about_cluster
    )
    yield _section(SERVER, guarded("server", lambda: _check_server(question, meeting)))
    wanted = Wanted(
        namespace=question.namespace or question.access.kfp_namespace,
        account=question.service_account,
        placement=question.placement,
        storage_uri=question.storage_uri,
        shipped=question.shipped,
    )
    yield _section(CLUSTER, check_cluster(meeting, wanted))


def _section(title: str, checks: list[Check]) -> Section:
    return Section(title=title, checks=tuple(checks))


def _check_machine(question: Question) -> list[Check]:
    facts = importlib.metadata.metadata(packages.DISTRIBUTION)
    is_local = question.storage_uri and storage.is_local(question.storage_uri)
    folder = Path(question.storage_uri) if is_local else Path.cwd()
    looks: dict[str, Callable[[], Check]] = {
        "Python": lambda: machine.check_python(facts["Requires-Python"]),
        "packages": lambda: packages.check_packages(
            facts.get_all("Requires-Dist") or [], packages.installed_versions()
        ),
        "TensorFlow": packages.check_tensorflow,
        "memory": lambda: machine.check_memory(machine.free_memory_bytes()),
        "disk": lambda: machine.check_disk("disk", folder),
        "scratch": lambda: machine.check_disk("scratch", machine.scratch_folder()),
        "pipeline": lambda: question.shipped.check,
        "weights": shipped.check_weights,
    }
    return [check for name, look in looks.items() for check in guarded(name, look)]


def _check_storage(question: Question, environment: Mapping[str, str]) -> list[Check]:
    uri = question.storage_uri
    if not uri:
        return [not_checked(storage_access.NAME, "no --storage-uri was given")]
    return [
        *guarded(storage_access.NAME, lambda: storage_access.check_access(uri)),
        storage_access.check_credentials(uri, environment),
    ]


def _check_server(question: Question, meeting: Meeting) -> list[Check]:
    if question.access.host or meeting.cluster is not None:
        return kfp_access.check_server(question.access, namespace=question.namespace)
    if meeting.check.state == PROBLEM:
        return [
            not_checked(
                "server", "it would be reached through the cluster, and that cannot be used"
            )
        ]
    return [not_checked("server", "neither --host nor kubeconfig names one")]
