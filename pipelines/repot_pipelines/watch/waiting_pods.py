"""Find the pods of a run that have not started, and why, from the best available source.

1. The Kubernetes API has a pod's status, requests and events. It is used if a kubeconfig, or the
   pod that this process runs in, leads to the run's cluster.
2. KFP's UI returns the same for one pod at a time.
3. The KFP server has a copy of the Argo workflow. Argo copies the status of a waiting pod into the
   message of its node; only there is the reason why a pod could not be created, such as a quota.

Source: `getPendingReason` and `markNodePending` in workflow/controller/operator.go of Argo;
frontend/server/handlers/pod-info.ts of kubeflow/pipelines 2.16 and 2.17.
"""

import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from repot.cluster_names import TASK_POD_ANNOTATION, WORKER_LABELS
from repot.kubernetes_rules import KubernetesObject
from repot.pod_start import (
    OTHER,
    STARTING,
    Obstacle,
    describe_obstacle,
    find_job_obstacle,
    find_obstacle,
)
from repot_pipelines.cluster.client import ClusterClient
from repot_pipelines.cluster.errors import ClusterError, ForbiddenError
from repot_pipelines.kfp_server.client import ApiObject
from repot_pipelines.kfp_server.runs import list_workflow_pods
from repot_pipelines.kfp_server.server import Server
from repot_pipelines.watch.tasks import RUNNING, PipelineTask, TaskStatus
from repot_pipelines.watch.tasks import STARTING as TASK_STARTING

RUN_LABEL = "pipeline/runid"
"""Label of all pods of a run. Source: backend/src/common/util/consts.go of kubeflow/pipelines."""
NODE_ANNOTATION = "workflows.argoproj.io/node-name"
"""Annotation of Argo's pods: the path of the workflow's node."""

WHOLE_RUN = "The run"

_POLLS_WITHOUT_CLUSTER = 12
"""After a failed request, this many polls pass before the next: it may take seconds to fail."""
_MAX_REFUSALS = 3
"""Without the UI in between, the server does not know its paths."""
_NOT_STARTED = (None, "RUNTIME_STATE_UNSPECIFIED", "PENDING")
_ARGO_MESSAGE = re.compile(r"(?P<reason>[A-Z][A-Za-z]+)(?:: (?P<message>.*))?", re.DOTALL)


@dataclass(frozen=True, kw_only=True, slots=True)
class WaitingPod:
    """A pod that has not started, or a Job that has not all its pods.

    Attributes:
        name: Its name; unique in the run.
        title: Title of its task.
        obstacle: Why it waits.
    """

    name: str
    title: str
    obstacle: Obstacle


class WaitingPods:
    """Finds the waiting pods of one run.

    Args:
        server: The server.
        run_id: Id of the run.
        tasks: The tasks of its pipeline.
        open_cluster: Connects to the cluster of kubeconfig; None if there is none. Called once,
            when a pod waits for the first time.
    """

    def __init__(
        self,
        server: Server,
        run_id: str,
        tasks: Sequence[PipelineTask],
        open_cluster: Callable[[], ClusterClient | None],
    ) -> None:
        self._server = server
        self._run_id = run_id
        self._titles = _titles_by_key(tasks)
        self._open_cluster = open_cluster
        self._is_opened = False
        self._cluster: ClusterClient | None = None
        self._forbidden: set[str] = set()
        self._namespace = server.namespace or server.kfp_namespace
        self._blind_spot = ""
        self._has_told = False
        self._num_skipped = 0
        self._num_refusals = 0
        self._last_found: list[WaitingPod] = []
        self._is_visible_in_ui = False

    def find(self, run: ApiObject, statuses: Sequence[TaskStatus]) -> list[WaitingPod]:
        """Return the pods that wait at the moment.

        Args:
            run: The run as the server has just returned it.
            statuses: Current statuses of its tasks.
        """
        nodes = list((run.run_details and run.run_details.task_details) or ())
        if not nodes:
            return [_untouched(self._run_id)] if run.state in _NOT_STARTED else []
        num_pending = sum(node.state == "PENDING" for node in nodes)
        follows_job = _trains_in_job(run) and any(
            status.task.key == "train" and status.state == RUNNING for status in statuses
        )
        if not num_pending:
            self._last_found = []
            if not follows_job:
                return []
        found, jobs = self._find_in_cluster(follows_job=follows_job)
        if len(found) < num_pending:
            seen = {pod.name for pod in found}
            found += [pod for pod in self._find_in_workflow() if pod.name not in seen]
        if num_pending and not found:
            # A source that fails for a moment must not look like pods that have started.
            found = self._last_found or [_invisible(statuses)]
        else:
            self._last_found = found
        return [*found, *jobs]

    def take_blind_spot(self) -> str:
        """Return what this user cannot see, why, and how to change that.

        "" if everything is visible so far, and from the second call on.
        """
        if self._has_told or self._is_visible_in_ui:
            return ""
        self._has_told = bool(self._blind_spot)
        return self._blind_spot

    def _find_in_cluster(self, *, follows_job: bool) -> tuple[list[WaitingPod], list[WaitingPod]]:
        """Return the run's waiting pods and training Jobs; both are empty without access."""
        cluster = self._connect()
        if cluster is None:
            return [], []
        try:
            pods = self._list(cluster, "pods", label_selector=f"{RUN_LABEL}={self._run_id}")
            if not pods:
                self._blind_spot = self._blind_spot or _other_cluster(cluster, self._namespace)
                return [], []
            found = list(self._describe_pods(cluster, pods))
            jobs = list(self._find_jobs(cluster, pods)) if follows_job else []
        except ForbiddenError as err:
            self._cluster = None
            self._blind_spot = _forbidden(err, self._namespace)
            return [], []
        except ClusterError as err:
            self._num_skipped = _POLLS_WITHOUT_CLUSTER
            self._blind_spot = self._blind_spot or _unreachable(err)
            return [], []
        return found, jobs

    def _connect(self) -> ClusterClient | None:
        if self._num_skipped:
            self._num_skipped -= 1
            return None
        if not self._is_opened:
            self._is_opened = True
            try:
                self._cluster = self._open_cluster()
            except ClusterError as err:
                self._blind_spot = _unreachable(err)
            else:
                if self._cluster is None:
                    self._blind_spot = _no_kubeconfig(self._namespace)
        return self._cluster

    def _describe_pods(
        self, cluster: ClusterClient, pods: Iterable[KubernetesObject]
    ) -> Iterator[WaitingPod]:
        """Yield the waiting pods; events are read for the first pod of each task."""
        waiting = [(self._title_of(_node_path(pod)), pod) for pod in pods if find_obstacle(pod)]
        waiting.sort(key=lambda each: (each[0], each[1]["metadata"].get("creationTimestamp", "")))
        for title, group in itertools.groupby(waiting, key=lambda each: each[0]):
            events: list[KubernetesObject] | None = None
            for _, pod in group:
                if events is None:
                    events = self._events_of(cluster, "Pod", pod)
                    obstacle = find_obstacle(pod, events)
                else:
                    obstacle = find_obstacle(pod)
                if obstacle is not None:
                    yield WaitingPod(name=_node_path(pod), title=title, obstacle=obstacle)

    def _find_jobs(
        self, cluster: ClusterClient, task_pods: Iterable[KubernetesObject]
    ) -> Iterator[WaitingPod]:
        """Yield the training Job of the run if not all of its workers are running."""
        names = {pod["metadata"]["name"] for pod in task_pods}
        selector = ",".join(f"{key}={value}" for key, value in WORKER_LABELS.items())
        for job in self._list_if_permitted(cluster, "jobs", label_selector=selector):
            metadata = job["metadata"]
            if (metadata.get("annotations") or {}).get(TASK_POD_ANNOTATION) not in names:
                continue
            if _has_ended(job):
                continue
            of_job = f"batch.kubernetes.io/job-name={metadata['name']}"
            workers = self._list(cluster, "pods", label_selector=of_job)
            phases = [(pod.get("status") or {}).get("phase", "Pending") for pod in workers]
            if "Succeeded" in phases:
                continue
            active = [
                pod
                for pod, phase in zip(workers, phases, strict=True)
                if phase not in ("Failed", "Succeeded")
            ]
            source = active[0] if active else job
            kind = "Pod" if active else "Job"
            obstacle = find_job_obstacle(job, active, self._events_of(cluster, kind, source))
            if obstacle is not None:
                yield WaitingPod(
                    name=metadata["name"],
                    title=self._titles.get("train", "Train"),
                    obstacle=obstacle,
                )

    def _list(
        self, cluster: ClusterClient, plural: str, **selectors: str
    ) -> list[KubernetesObject]:
        group = "apis/batch/v1" if plural == "jobs" else "api/v1"
        path = f"/{group}/namespaces/{self._namespace}/{plural}"
        return cluster.list_all(f"list {plural}", path, **selectors)

    def _list_if_permitted(
        self, cluster: ClusterClient, plural: str, **selectors: str
    ) -> list[KubernetesObject]:
        """Return objects that only add details; empty, and not asked for again, if forbidden."""
        if plural in self._forbidden:
            return []
        try:
            return self._list(cluster, plural, **selectors)
        except ForbiddenError as err:
            self._forbidden.add(plural)
            self._blind_spot = self._blind_spot or _forbidden(err, self._namespace)
            return []

    def _events_of(
        self, cluster: ClusterClient, kind: str, owner: KubernetesObject
    ) -> list[KubernetesObject]:
        name = owner["metadata"]["name"]
        selector = f"involvedObject.kind={kind},involvedObject.name={name}"
        return self._list_if_permitted(cluster, "events", field_selector=selector)

    def _find_in_workflow(self) -> list[WaitingPod]:
        """Return the waiting pods according to the server's copy of the workflow.

        KFP's UI is asked for details of the first pod of each task.
        """
        found: dict[str, list[WaitingPod]] = {}
        for pod in list_workflow_pods(self._server, self._run_id):
            if pod.phase == "Pending":
                title = self._title_of(pod.path)
                obstacle = None if title in found else self._ask_ui(pod.name)
                obstacle = obstacle or _read_argo_message(pod.message)
                waiting = WaitingPod(name=pod.path, title=title, obstacle=obstacle)
                found.setdefault(title, []).append(waiting)
        return list(itertools.chain.from_iterable(found.values()))

    def _ask_ui(self, pod: str) -> Obstacle | None:
        """Return what keeps a pod from starting according to KFP's UI; None if it does not tell."""
        if self._num_refusals >= _MAX_REFUSALS:
            return None
        query = {"podname": pod, "podnamespace": self._namespace}
        found = self._server.get_object("/k8s/pod", query)
        if "status" not in found or "spec" not in found:
            # No such pod, or this is not the UI.
            self._num_refusals += 1
            return None
        events = self._server.get_object("/k8s/pod/events", query)
        self._is_visible_in_ui = True
        return find_obstacle(found, events.get("items") or [])

    def _title_of(self, path: str) -> str:
        """Return the title of the task at the path of a node of the workflow."""
        parts = _without_attempts(path).split(".")
        is_driver = parts[-1].endswith("-driver")
        for part in reversed(parts):
            key = part.removesuffix("-driver")
            if key in self._titles:
                title = self._titles[key]
                return f"{title} (KFP's driver)" if is_driver else title
        return WHOLE_RUN


def _titles_by_key(tasks: Sequence[PipelineTask]) -> dict[str, str]:
    """Return the titles of tasks, and of the loops and conditions around them."""
    titles: dict[str, str] = {}
    for task in tasks:
        if task.parent:
            titles.setdefault(task.parent, task.title)
    return titles | {task.key: task.title for task in tasks}


def _trains_in_job(run: ApiObject) -> bool:
    parameters = (run.runtime_config and run.runtime_config.parameters) or {}
    settings = parameters.get("settings")
    nested = settings if isinstance(settings, dict) else {}
    return "job" in (parameters.get("trainer_mode"), nested.get("trainer_mode"))


def _node_path(pod: KubernetesObject) -> str:
    metadata = pod["metadata"]
    path = (metadata.get("annotations") or {}).get(NODE_ANNOTATION) or metadata["name"]
    return str(path)


def _without_attempts(path: str) -> str:
    return re.sub(r"\(\d+\)", "", path)


def _read_argo_message(message: str) -> Obstacle:
    match = _ARGO_MESSAGE.fullmatch(message)
    if match:
        return describe_obstacle(match["reason"], match["message"] or "")
    return describe_obstacle("", message)


def _has_ended(job: KubernetesObject) -> bool:
    conditions = (job.get("status") or {}).get("conditions") or []
    return any(
        each["type"] in ("Complete", "Failed") and each["status"] == "True" for each in conditions
    )


def _untouched(run_id: str) -> WaitingPod:
    text = "none of its tasks exists yet: Argo's workflow controller has not taken it up"
    return WaitingPod(
        name=run_id, title=WHOLE_RUN, obstacle=Obstacle(cause=OTHER, text=text, key=(OTHER, ""))
    )


def _invisible(statuses: Sequence[TaskStatus]) -> WaitingPod:
    """Return the pods of which nothing but their existence is known."""
    titles = [status.task.title for status in statuses if status.state in (RUNNING, TASK_STARTING)]
    text = "a pod has not started, and the reason is not visible from here"
    obstacle = Obstacle(cause=STARTING, text=text, key=(STARTING, "invisible"))
    return WaitingPod(name="", title=" or ".join(titles) or WHOLE_RUN, obstacle=obstacle)


_PARTLY_VISIBLE = (
    "Why pods wait is known from Kubeflow Pipelines only, without the events of volumes, nodes and "
    "autoscalers:"
)


def _no_kubeconfig(namespace: str) -> str:
    return (
        f"{_PARTLY_VISIBLE} there is no kubeconfig. Set KUBECONFIG to one whose user has the role "
        f"view in {namespace}."
    )


def _forbidden(err: ForbiddenError, namespace: str) -> str:
    return (
        f"{_PARTLY_VISIBLE} {_reason(err)}. Ask for it: kubectl create rolebinding repot-view "
        f"--clusterrole view --user YOU -n {namespace}."
    )


def _unreachable(err: ClusterError) -> str:
    return f"{_PARTLY_VISIBLE} {_reason(err)}."


def _other_cluster(cluster: ClusterClient, namespace: str) -> str:
    return (
        f"{_PARTLY_VISIBLE} {cluster.address} has no pods of this run in the namespace "
        f"{namespace}. Choose the run's cluster with --context, and its namespace with --namespace."
    )


def _reason(err: ClusterError) -> str:
    text = " ".join(str(err).split())
    return (text[:1].lower() + text[1:]).rstrip(".")
