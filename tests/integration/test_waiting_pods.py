"""`repot submit` and `repot ci` say what pods wait for, through real clients of both APIs."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from repot_pipelines.watch import follow, start_watch
from tests.integration.kfp_api.answers import ApiError
from tests.integration.kfp_api.command_line import CommandResult, run_repot
from tests.integration.kfp_api.scripted_runs import (
    FINISHED,
    TRAINING,
    Stage,
    gate_log,
    script_runs,
)
from tests.integration.kfp_api.server import KfpApi
from tests.integration.kfp_api.validation import inner_spec
from tests.integration.kfp_api.workflow import Progress, make_nodes, pods_by_name
from tests.integration.kubernetes_api.kubeconfig import write_kubeconfig
from tests.integration.kubernetes_api.ready import NAMESPACE, let_in, make_node, make_pod, prepare
from tests.integration.kubernetes_api.server import ADMIN_TOKEN, KubernetesApi

LOCATIONS = ("gs://pictures/flowers", "--storage-uri", "gs://repot/here")
IMAGE = "ghcr.io/repot/repot-trainer:0.1.0"
NO_CPU = "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available."
PENDING = {**TRAINING, "train": "Pending"}
END = Stage("SUCCEEDED", FINISHED, gate_log("reject"))


@dataclass
class Clock:
    """Stands in for the module `time` of the loop that follows a run."""

    now: float = 1000.0
    asleep: list[float] = field(default_factory=list)

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.asleep.append(seconds)


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, gcs_endpoint: str) -> Clock:
    for name in [name for name in os.environ if name.startswith(("KF_", "KUBE"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    # No test may contact the real service; the bucket of LOCATIONS does not exist here.
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", gcs_endpoint)
    fake = Clock()
    monkeypatch.setattr(follow, "time", fake)
    return fake


@pytest.fixture
def kfp() -> Iterator[KfpApi]:
    with KfpApi() as server:
        yield server


@pytest.fixture
def api(kfp: KfpApi) -> Iterator[KubernetesApi]:
    with KubernetesApi() as server:
        prepare(server, kfp)
        yield server


@pytest.fixture
def use_token(
    api: KubernetesApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], None]:
    """Return a function that writes and selects a kubeconfig with a token."""

    def select(token: str) -> None:
        path = write_kubeconfig(tmp_path / "kubeconfig", api.address, token=token)
        monkeypatch.setenv("KUBECONFIG", str(path))
        monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(path))

    return select


@pytest.fixture
def admin(use_token: Callable[[str], None]) -> None:
    use_token(ADMIN_TOKEN)


def start_run(kfp: KfpApi, *parameters: str) -> str:
    started = run_repot("submit", *LOCATIONS, "--host", kfp.address, *parameters)
    assert started.exit_code == 0, started.errors
    (run_id,) = kfp.store.runs
    return run_id


def attach(run_id: str, *options: str, poll: int = 30) -> CommandResult:
    return run_repot("submit", "--attach", run_id, "--poll-seconds", str(poll), *options)


def put_pod(
    api: KubernetesApi,
    kfp: KfpApi,
    run_id: str,
    status: dict[str, Any],
    *,
    path: str = "root.train.executor",
    phases: dict[str, str] = PENDING,
    namespace: str = NAMESPACE,
) -> str:
    """Store the pod of a node of the run's workflow as KFP and Argo create it; return its name."""
    workflow = kfp.store.workflow(run_id)
    spec = inner_spec(kfp.store._source(kfp.store.runs[run_id], pin=True)[0])
    nodes = pods_by_name(make_nodes(spec, workflow, Progress(phases)), workflow)
    paths = {node.path.replace("(0)", ""): (name, node.path) for name, node in nodes.items()}
    name, full_path = paths[f"{workflow}.{path}"]
    main = {
        "name": "main",
        "image": IMAGE,
        "resources": {"requests": {"cpu": "4", "memory": "16Gi"}, "limits": {"memory": "16Gi"}},
    }
    api.store.put(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": name,
                "namespace": namespace,
                "labels": {"pipeline/runid": run_id},
                "annotations": {"workflows.argoproj.io/node-name": full_path},
            },
            "spec": {"containers": [{"name": "wait", "image": "argoexec"}, main]},
            "status": {"phase": "Pending", **status},
        }
    )
    return name


def put_event(api: KubernetesApi, owner: str, reason: str, message: str, kind: str = "Pod") -> None:
    api.store.put(
        {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": f"{owner}.{reason}", "namespace": NAMESPACE},
            "involvedObject": {"kind": kind, "name": owner, "namespace": NAMESPACE},
            "type": "Warning",
            "reason": reason,
            "message": message,
            "lastTimestamp": "2026-03-01T02:00:00Z",
        }
    )


def unschedulable(message: str = NO_CPU) -> dict[str, Any]:
    condition = {
        "type": "PodScheduled",
        "status": "False",
        "reason": "Unschedulable",
        "message": message,
    }
    return {"conditions": [condition]}


def container_waiting(reason: str, message: str) -> dict[str, Any]:
    status = {"name": "main", "image": IMAGE, "imageID": "", "ready": False, "restartCount": 0}
    waiting = {"waiting": {"reason": reason, "message": message}}
    return {
        "conditions": [{"type": "PodScheduled", "status": "True"}],
        "containerStatuses": [{**status, "state": waiting}],
    }


def lines_about(result: CommandResult, title: str) -> list[str]:
    return [line for line in result.output.splitlines() if line.startswith(title)]


@pytest.mark.usefixtures("admin")
def test_unschedulable_pod_is_reported_within_30_seconds_and_once(
    api: KubernetesApi, kfp: KfpApi, clock: Clock
) -> None:
    run_id = start_run(kfp)
    put_pod(api, kfp, run_id, unschedulable())
    script_runs(kfp, [*[Stage("RUNNING", PENDING)] * 24, Stage("RUNNING", TRAINING), END])
    seen_at: list[float] = []
    real_report = start_watch.StartWatch.report

    def report(*arguments: Any, **more: Any) -> list[str]:
        lines = real_report(*arguments, **more)
        seen_at.extend([clock.now] * len(lines))
        return lines

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(start_watch.StartWatch, "report", report)
        result = attach(run_id, poll=5)

    assert result.exit_code == 3
    # The pod is still in the cluster, so only its node in the workflow has started.
    waiting = "0/1 nodes are available: 1 Insufficient cpu; it requests cpu 4, memory 16Gi"
    assert lines_about(result, "Train") == [
        "Train: starting",
        f"Train is waiting: {waiting}",
        "Train: running",
        "Train has started after 2 min.",
        "Train: done in 1 min 30 s",
    ]
    assert seen_at[0] - 1000 <= 30
    assert "Why pods wait is known" not in result.output


@pytest.mark.usefixtures("admin")
def test_pods_are_looked_for_in_the_namespace_of_the_run(api: KubernetesApi, kfp: KfpApi) -> None:
    kfp.store.is_multi_user = True
    run_id = start_run(kfp, "--namespace", "alice")
    put_pod(api, kfp, run_id, unschedulable(), namespace="alice")
    script_runs(kfp, [Stage("RUNNING", PENDING)])
    api.requests.clear()

    result = attach(run_id, "--namespace", "alice", "--start-timeout", "2m")

    assert "Insufficient cpu; it requests cpu 4, memory 16Gi" in result.output
    assert {path for _, _, path in api.requests if path.endswith("/pods")} == {
        "/api/v1/namespaces/alice/pods"
    }


@pytest.mark.usefixtures("admin")
def test_pull_that_alternates_between_two_reasons_is_one_line(
    api: KubernetesApi, kfp: KfpApi
) -> None:
    run_id = start_run(kfp)
    script_runs(kfp, [*[Stage("RUNNING", PENDING)] * 10, END])
    scripted = kfp.before
    polls = iter(range(1000))

    def alternate(number: int, method: str, path: str) -> None:
        scripted(number, method, path)
        if path.endswith(run_id) and next(polls) % 2:
            put_pod(api, kfp, run_id, container_waiting("ErrImagePull", f"{IMAGE}: not found"))
        elif path.endswith(run_id):
            message = f'Back-off pulling image "{IMAGE}": ErrImagePull: {IMAGE}: not found'
            put_pod(api, kfp, run_id, container_waiting("ImagePullBackOff", message))

    kfp.before = alternate

    result = attach(run_id)

    assert lines_about(result, "Train is") == [
        f"Train is waiting: image {IMAGE} cannot be pulled: {IMAGE}: not found"
    ]


@pytest.mark.usefixtures("admin")
def test_changed_reason_is_a_new_line_and_events_are_read(api: KubernetesApi, kfp: KfpApi) -> None:
    run_id = start_run(kfp)
    name = put_pod(api, kfp, run_id, unschedulable())
    stages = [Stage("RUNNING", PENDING)] * 14
    script_runs(kfp, [*stages, END])
    scripted = kfp.before
    changes: dict[int, Callable[[], object]] = {
        4: lambda: put_event(
            api, name, "TriggeredScaleUp", "pod triggered scale-up: [{gpus 0->1 (max: 4)}]"
        ),
        8: lambda: put_pod(
            api, kfp, run_id, {"conditions": [{"type": "PodScheduled", "status": "True"}]}
        ),
        9: lambda: put_event(
            api,
            name,
            "FailedMount",
            'MountVolume.SetUp failed for volume "v" : secret "x" not found',
        ),
    }
    polls = iter(range(1000))

    def change(number: int, method: str, path: str) -> None:
        scripted(number, method, path)
        if path.endswith(run_id):
            action = changes.get(next(polls))
            if action is not None:
                action()

    kfp.before = change

    result = attach(run_id)

    lines = lines_about(result, "Train is")
    assert len(lines) == 3
    assert "Insufficient cpu" in lines[0]
    assert "the autoscaler is adding a node" in lines[1]
    assert 'a volume cannot be mounted: MountVolume.SetUp failed for volume "v"' in lines[2]


@pytest.mark.usefixtures("admin")
def test_pod_that_does_not_start_in_time_fails_the_wait_but_not_the_run(
    api: KubernetesApi, kfp: KfpApi, clock: Clock
) -> None:
    run_id = start_run(kfp)
    put_pod(
        api,
        kfp,
        run_id,
        container_waiting(
            "CreateContainerConfigError", "couldn't find key accesskey in Secret kubeflow/repot-s3"
        ),
    )
    script_runs(kfp, [Stage("RUNNING", PENDING)])

    result = attach(run_id, "--start-timeout", "20m", poll=60)

    assert result.exit_code == 1
    assert 1200 <= sum(clock.asleep) < 1260
    message = " ".join(result.errors.split())
    assert "Train must start within 20 min; it is waiting: its container cannot be" in message
    assert "couldn't find key accesskey in Secret kubeflow/repot-s3. Create what is" in message
    assert f"follow it again with `repot submit --attach {run_id}`" in message
    assert kfp.store.runs[run_id]["state"] == "RUNNING"
    assert len(lines_about(result, "Train has been waiting for 11 min")) == 1


@pytest.mark.usefixtures("admin")
def test_run_is_terminated_on_request(api: KubernetesApi, kfp: KfpApi) -> None:
    run_id = start_run(kfp)
    put_pod(api, kfp, run_id, unschedulable())
    script_runs(kfp, [Stage("RUNNING", PENDING)])

    result = attach(run_id, "--start-timeout", "60", "--terminate-on-timeout")

    assert result.exit_code == 1
    assert f"The run {run_id} was terminated." in " ".join(result.errors.split())
    assert kfp.store.runs[run_id]["state"] == "CANCELING"


@pytest.mark.usefixtures("admin")
def test_without_a_limit_a_pod_may_wait_for_hours(api: KubernetesApi, kfp: KfpApi) -> None:
    run_id = start_run(kfp)
    put_pod(api, kfp, run_id, unschedulable())
    script_runs(kfp, [*[Stage("RUNNING", PENDING)] * 3, END])

    result = run_repot(
        "submit", "--attach", run_id, "--poll-seconds", "7200", "--start-timeout", "0"
    )

    assert result.exit_code == 3, result.errors


@pytest.mark.usefixtures("admin")
def test_driver_that_cannot_start_is_named(api: KubernetesApi, kfp: KfpApi) -> None:
    run_id = start_run(kfp)
    phases = {"plan": "DriverPending"}
    put_pod(api, kfp, run_id, unschedulable(), path="root.plan-driver", phases=phases)
    script_runs(kfp, [Stage("RUNNING", phases)])

    result = attach(run_id, "--start-timeout", "1m")

    assert "(KFP's driver) is waiting: 0/1 nodes are available" in result.output
    assert "(KFP's driver) must start within 1 min" in " ".join(result.errors.split())


@pytest.mark.usefixtures("admin")
def test_pods_of_a_loop_are_one_line(api: KubernetesApi, kfp: KfpApi) -> None:
    run_id = start_run(kfp)
    phases = {"plan": "Succeeded", "build-shards": "Succeeded", "build-shards-2": "Pending"}
    script_runs(kfp, [Stage("RUNNING", phases)])
    workflow = kfp.store.workflow(run_id)
    spec = inner_spec(kfp.store._source(kfp.store.runs[run_id], pin=True)[0])
    paths = [
        node.path.replace("(0)", "").removeprefix(f"{workflow}.")
        for node in make_nodes(spec, workflow, Progress(phases))
        if node.phase == "Pending" and node.template
    ]
    assert len(paths) == 2
    for path in paths:
        put_pod(api, kfp, run_id, unschedulable(), path=path, phases=phases)

    result = attach(run_id, "--start-timeout", "1m")

    (line,) = lines_about(result, "Build other shards is")
    assert line.startswith("Build other shards is waiting (2 pods): 0/1 nodes")


@pytest.mark.usefixtures("admin")
def test_quota_is_known_although_there_is_no_pod(api: KubernetesApi, kfp: KfpApi) -> None:
    run_id = start_run(kfp)
    earlier = {"phase": "Succeeded"}
    put_pod(api, kfp, run_id, earlier, path="root.plan.executor", phases=TRAINING)
    quota = (
        'Pending pods "x" is forbidden: exceeded quota: small, requested: requests.cpu=4, used: '
        "requests.cpu=0, limited: requests.cpu=2"
    )
    script_runs(kfp, [Stage("RUNNING", PENDING, messages={"train": quota})])

    result = attach(run_id, "--start-timeout", "1m")

    assert "Train is waiting: exceeded quota: small, requested: requests.cpu=4" in result.output
    assert "ask for a higher quota" in " ".join(result.errors.split())
    assert "Why pods wait is known" not in result.output


@pytest.mark.usefixtures("admin")
@pytest.mark.parametrize("is_suspended", [True, False])
def test_training_job_that_cannot_start_is_reported(
    api: KubernetesApi, kfp: KfpApi, is_suspended: bool
) -> None:
    run_id = start_run(kfp, "-p", "trainer_mode=job")
    task_pod = put_pod(api, kfp, run_id, {"phase": "Running"}, phases=TRAINING)
    labels = {"app.kubernetes.io/part-of": "repot", "app.kubernetes.io/component": "worker"}
    template = {
        "metadata": {"labels": labels},
        "spec": {"restartPolicy": "Never", "containers": [{"name": "trainer", "image": IMAGE}]},
    }

    def put_job(name: str, owner: str) -> None:
        metadata = {
            "name": name,
            "namespace": NAMESPACE,
            "labels": {**labels, "kueue.x-k8s.io/queue-name": "gpus"},
            "annotations": {"repot/task-pod": owner},
        }
        spec = {"parallelism": 1, "suspend": is_suspended, "template": template}
        api.store.put({"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec})
        worker = {
            "name": f"{name}-0",
            "namespace": NAMESPACE,
            "labels": {
                **labels,
                "batch.kubernetes.io/job-name": name,
                "batch.kubernetes.io/job-completion-index": "0",
            },
        }
        status = {"phase": "Pending", **unschedulable("0/3 nodes are available: no GPU.")}
        api.store.put(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": worker,
                "spec": template["spec"],
                "status": status,
            }
        )

    put_job("repot-train-1", task_pod)
    put_job("repot-train-2", "of-another-run")
    script_runs(kfp, [Stage("RUNNING", TRAINING)])

    result = attach(run_id, "--start-timeout", "1m")

    expected = (
        "Train is waiting: the Job is suspended; queue gpus starts it when there is room"
        if is_suspended
        else "Train is waiting: worker 0: 0/3 nodes are available: no GPU"
    )
    assert lines_about(result, "Train is") == [expected]


def test_without_kubeconfig_the_reason_comes_from_the_workflow(kfp: KfpApi) -> None:
    run_id = start_run(kfp)
    message = f'ImagePullBackOff: Back-off pulling image "{IMAGE}": ErrImagePull: denied'
    script_runs(kfp, [Stage("RUNNING", PENDING, messages={"train": message})])

    result = attach(run_id, "--host", kfp.address, "--start-timeout", "2m")

    assert f"Train is waiting: image {IMAGE} cannot be pulled: denied" in result.output
    assert result.output.count("Why pods wait is known from Kubeflow Pipelines only") == 1
    assert "there is no kubeconfig. Set KUBECONFIG to one whose user has the role view" in (
        result.output
    )
    assert "give the run's service account a pull secret" in " ".join(result.errors.split())


def test_ui_of_kubeflow_has_the_pod_and_its_events(api: KubernetesApi, kfp: KfpApi) -> None:
    kfp.is_ui = True
    run_id = start_run(kfp)
    name = put_pod(api, kfp, run_id, unschedulable())
    put_event(api, name, "NotTriggerScaleUp", "pod didn't trigger scale-up: 1 max node group size")
    kfp.pods[name] = api.store.objects["pods", NAMESPACE, name]
    kfp.events[name] = [api.store.objects["events", NAMESPACE, f"{name}.NotTriggerScaleUp"]]
    script_runs(kfp, [Stage("RUNNING", PENDING, messages={"train": f"Unschedulable: {NO_CPU}"})])

    result = attach(run_id, "--host", kfp.address, "--start-timeout", "2m")

    (line,) = lines_about(result, "Train is")
    assert (
        "Insufficient cpu; it requests cpu 4, memory 16Gi; the autoscaler adds no node: 1 max"
        in (line)
    )
    assert "Why pods wait is known" not in result.output


def test_server_without_the_ui_is_not_asked_for_pods_again_and_again(kfp: KfpApi) -> None:
    run_id = start_run(kfp)
    script_runs(kfp, [Stage("RUNNING", PENDING, messages={"train": "PodInitializing"})])

    attach(run_id, "--host", kfp.address, "--start-timeout", "5m")

    assert len([path for _, path in kfp.requests if path.startswith("/k8s/")]) == 3


def test_without_any_reason_the_limit_still_applies(kfp: KfpApi) -> None:
    kfp.has_v1 = False
    run_id = start_run(kfp)
    script_runs(kfp, [Stage("RUNNING", PENDING)])

    result = attach(run_id, "--host", kfp.address, poll=120)

    assert result.exit_code == 1
    assert "Train is waiting: a pod has not started, and the reason is not" in result.output
    assert "Train must start within 15 min" in " ".join(result.errors.split())


def test_user_without_rights_to_read_pods_is_told_once_how_to_get_them(
    api: KubernetesApi, kfp: KfpApi, use_token: Callable[[str], None]
) -> None:
    use_token("of-alice")
    let_in(api, "alice", "of-alice", ("get create", "services/proxy"))
    run_id = start_run(kfp)
    script_runs(kfp, [Stage("RUNNING", PENDING, messages={"train": f"Unschedulable: {NO_CPU}"})])

    result = attach(run_id, poll=120)

    assert "Train is waiting: 0/1 nodes are available: 1 Insufficient cpu" in result.output
    assert result.output.count('User "alice" cannot list resource "pods"') == 1
    assert "--clusterrole view --user YOU -n kubeflow" in result.output
    assert len([path for _, _, path in api.requests if path.endswith("/pods")]) == 1


def test_user_without_rights_to_read_events_still_sees_the_pods(
    api: KubernetesApi, kfp: KfpApi, use_token: Callable[[str], None]
) -> None:
    use_token("of-alice")
    let_in(api, "alice", "of-alice", ("get list", "pods"))
    run_id = start_run(kfp)
    put_pod(api, kfp, run_id, unschedulable())
    script_runs(kfp, [Stage("RUNNING", PENDING)])

    result = attach(run_id, "--host", kfp.address, poll=120)

    assert "Insufficient cpu; it requests cpu 4, memory 16Gi" in result.output
    assert result.output.count('User "alice" cannot list resource "events"') == 1
    assert len([path for _, _, path in api.requests if path.endswith("/events")]) == 1


def test_user_without_rights_to_read_jobs_still_sees_the_pods(
    api: KubernetesApi, kfp: KfpApi, use_token: Callable[[str], None]
) -> None:
    use_token("of-alice")
    let_in(api, "alice", "of-alice", ("get list", "pods"), ("list", "events"))
    run_id = start_run(kfp, "-p", "trainer_mode=job")
    phases = {**TRAINING, "evaluate": "Pending"}
    put_pod(api, kfp, run_id, unschedulable(), path="root.evaluate.executor", phases=phases)
    script_runs(kfp, [Stage("RUNNING", phases)])

    result = attach(run_id, "--host", kfp.address, "--start-timeout", "3m", poll=60)

    assert "Insufficient cpu; it requests cpu 4, memory 16Gi" in result.output
    assert result.output.count('User "alice" cannot list resource "jobs"') == 1
    assert len([path for _, _, path in api.requests if path.endswith("/jobs")]) == 1


@pytest.mark.usefixtures("admin")
def test_kubeconfig_of_another_cluster_is_told_from_the_runs(
    api: KubernetesApi, kfp: KfpApi
) -> None:
    run_id = start_run(kfp)
    script_runs(kfp, [Stage("RUNNING", PENDING, messages={"train": f"Unschedulable: {NO_CPU}"})])

    result = attach(run_id, "--host", kfp.address, poll=120)

    assert "Train is waiting: 0/1 nodes are available: 1 Insufficient cpu" in result.output
    assert f"{api.address} has no pods of this run in the namespace kubeflow" in result.output


def test_source_that_fails_for_a_moment_changes_nothing(kfp: KfpApi, clock: Clock) -> None:
    run_id = start_run(kfp)
    script_runs(kfp, [Stage("RUNNING", PENDING, messages={"train": f"Unschedulable: {NO_CPU}"})])
    scripted = kfp.before

    def fail_for_a_moment(number: int, method: str, path: str) -> None:
        scripted(number, method, path)
        kfp.has_v1 = not 1040 < clock.now < 1080

    kfp.before = fail_for_a_moment

    result = attach(run_id, "--host", kfp.address, "--start-timeout", "2m", poll=10)

    assert result.exit_code == 1
    assert sum(clock.asleep) == 120
    assert lines_about(result, "Train is") == [
        "Train is waiting: 0/1 nodes are available: 1 Insufficient cpu"
    ]
    assert "has started" not in result.output


def test_run_that_cannot_be_terminated_is_an_error_that_says_so(kfp: KfpApi) -> None:
    run_id = start_run(kfp)
    script_runs(kfp, [Stage("RUNNING", PENDING)])
    kfp.answers.append(("POST", ":terminate", ApiError("denied", "not yours").answer()))

    result = attach(
        run_id, "--host", kfp.address, "--start-timeout", "1m", "--terminate-on-timeout"
    )

    assert result.exit_code == 1
    message = " ".join(result.errors.split())
    assert "Train must start within 1 min" in message
    assert "The run could not be terminated: Cannot terminate the run" in message
    assert "not yours" in message


def test_run_that_argo_does_not_take_up_is_reported(kfp: KfpApi) -> None:
    run_id = start_run(kfp)

    result = attach(run_id, "--host", kfp.address, "--start-timeout", "90s")

    assert result.exit_code == 1
    assert "The run is waiting: none of its tasks exists yet: Argo's workflow" in result.output


def test_run_whose_pods_start_normally_says_nothing(kfp: KfpApi) -> None:
    run_id = start_run(kfp)
    pulling = Stage("RUNNING", PENDING, messages={"train": "ContainerCreating"})
    script_runs(kfp, [pulling, pulling, Stage("RUNNING", TRAINING), END])

    result = attach(run_id, "--host", kfp.address, poll=5)

    assert "waiting" not in result.output
    assert "has started" not in result.output
    assert "Why pods wait" not in result.output


def test_ci_job_fails_with_the_reason_in_its_comment(
    kfp: KfpApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    message = f"Unschedulable: {NO_CPU}"
    script_runs(kfp, [Stage("RUNNING", PENDING, messages={"train": message})])

    result = run_repot(
        "ci",
        "--skip-sample",
        *LOCATIONS,
        *("--host", kfp.address, "--poll-seconds", "600", "--comment-file", "comment.md"),
        *("--start-timeout", "1h", "--terminate-on-timeout"),
    )

    (run,) = kfp.store.runs.values()
    comment = (tmp_path / "comment.md").read_text()
    assert result.exit_code == 1
    assert run["state"] == "CANCELING"
    assert "Train must start within 1 h; it is waiting: 0/1 nodes are available" in comment
    assert "Insufficient cpu" in comment


# Before the start: requests against nodes.


def put_node(api: KubernetesApi, name: str, *, cpu: str, memory: str, gpus: int = 1) -> None:
    stored = make_node(name, gpus=gpus)
    stored["status"]["allocatable"] |= {"cpu": cpu, "memory": memory}
    api.store.put(stored)


def keep_nodes(api: KubernetesApi, *names: str) -> None:
    # Without the administrator's defaults, those of repot count.
    metadata = {"name": "repot-settings", "namespace": NAMESPACE}
    api.store.put({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {}})
    for key in [key for key in api.store.objects if key[0] == "nodes" and key[2] not in names]:
        del api.store.objects[key]


@pytest.mark.usefixtures("admin")
@pytest.mark.parametrize("command", [("submit",), ("ci", "--skip-sample", "--start-timeout", "1")])
def test_pods_that_fit_no_node_are_a_warning_before_the_start(
    api: KubernetesApi,
    kfp: KfpApi,
    command: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    keep_nodes(api)
    put_node(api, "only-node", cpu="1930m", memory="15Gi")
    script_runs(kfp, [END])

    result = run_repot(*command, *LOCATIONS, "-p", "evaluator_cpu=1")

    assert result.exit_code in (0, 3), result.errors
    assert (
        "warning: builder pods request cpu 2, memory 4Gi; the only node, only-node, has cpu "
        in (result.errors)
    )
    assert "Lower builder_cpu to 1.93 or less, or add a larger node." in result.errors
    assert "and has memory 15Gi of 16Gi. Lower trainer_cpu to 1.93" in result.errors
    assert "evaluator pods" not in result.errors
    assert len(kfp.store.runs) == 1


@pytest.mark.usefixtures("admin")
def test_autoscaler_makes_it_a_note(api: KubernetesApi, kfp: KfpApi) -> None:
    keep_nodes(api, "cpu-1")
    status = {"name": "cluster-autoscaler-status", "namespace": "kube-system"}
    api.store.put({"apiVersion": "v1", "kind": "ConfigMap", "metadata": status, "data": {}})

    result = run_repot("submit", *LOCATIONS)

    assert result.exit_code == 0
    assert "note: trainer pods request" in result.errors
    assert "They wait until the autoscaler adds a node that fits." in result.errors
    assert "warning" not in result.errors


@pytest.mark.usefixtures("admin")
def test_full_nodes_are_a_warning_that_says_so(api: KubernetesApi, kfp: KfpApi) -> None:
    keep_nodes(api)
    put_node(api, "busy", cpu="8", memory="32Gi")
    api.store.put(make_pod("training", node="busy", gpus=1))

    result = run_repot("submit", *LOCATIONS)

    assert result.exit_code == 0
    assert "busy has nvidia.com/gpu 0 of 1 free. They wait until other pods end" in result.errors
    assert "builder" not in result.errors


def set_cluster_defaults(api: KubernetesApi, **data: str) -> None:
    api.store.put(
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "repot-settings", "namespace": NAMESPACE},
            "data": {"STORAGE_URI": "gs://repot/here", **data},
        }
    )


@pytest.mark.usefixtures("admin")
def test_defaults_of_the_cluster_count_unless_the_run_sets_its_own(
    api: KubernetesApi, kfp: KfpApi
) -> None:
    set_cluster_defaults(api, BUILDER_CPU="3", EVALUATOR_MEMORY="40Gi", ACCELERATOR_COUNT="0")

    by_cluster = run_repot("submit", *LOCATIONS)
    by_run = run_repot("submit", *LOCATIONS, "-p", "evaluator_memory=2Gi")
    set_cluster_defaults(api, EVALUATOR_MEMORY="much")
    by_mistake = run_repot("submit", *LOCATIONS)

    assert "evaluator pods request cpu 2, memory 40Gi; the closest node" in by_cluster.errors
    assert by_cluster.errors.count("warning: ") == 1
    assert (by_run.exit_code, by_run.errors) == (0, "")
    assert by_mistake.exit_code == 0


@pytest.mark.usefixtures("admin")
def test_run_whose_pods_fit_gets_no_warning(api: KubernetesApi, kfp: KfpApi) -> None:
    result = run_repot("submit", *LOCATIONS)

    assert (result.exit_code, result.errors) == (0, "")
    assert any(path.endswith("/nodes") for _, _, path in api.requests)


@pytest.mark.usefixtures("admin")
def test_nodes_of_a_cluster_that_is_perhaps_another_are_not_compared(
    api: KubernetesApi, kfp: KfpApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_nodes(api)
    remote = kfp.address.replace("127.0.0.1", "127.1")

    result = run_repot("submit", *LOCATIONS, "--host", remote)

    assert (result.exit_code, result.errors) == (0, "")
    assert api.requests == []


def test_user_who_may_not_list_nodes_is_told_so(
    api: KubernetesApi, kfp: KfpApi, use_token: Callable[[str], None]
) -> None:
    use_token("of-alice")
    let_in(api, "alice", "of-alice", ("get create", "services/proxy"))

    result = run_repot("submit", *LOCATIONS)

    assert result.exit_code == 0
    assert "note: what the pods request was not compared with the nodes" in result.errors
