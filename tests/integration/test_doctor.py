"""`repot doctor` with the real clients against HTTP servers that act as Kubernetes and KFP."""

import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from repot.cluster_names import JOB_POLICIES
from repot_pipelines.cluster import client as cluster_client
from repot_pipelines.cluster import kubeconfig
from repot_pipelines.doctor import installation, machine, storage_access
from repot_pipelines.doctor.results import ok
from tests.integration.command_line import repot
from tests.integration.kfp_api.answers import web_page
from tests.integration.kfp_api.command_line import run_repot
from tests.integration.kfp_api.server import KfpApi
from tests.integration.kubernetes_api.kubeconfig import write_kubeconfig
from tests.integration.kubernetes_api.ready import (
    GPU,
    GPU_TAINT,
    L4,
    NAMESPACE,
    RUNNER,
    let_in,
    make_node,
    make_pod,
    prepare,
)
from tests.integration.kubernetes_api.rules import role
from tests.integration.kubernetes_api.server import ADMIN_TOKEN, KubernetesApi
from tests.integration.kubernetes_api.status import plain

SELECTOR = ("--node-selector", json.dumps(L4))
TOLERATIONS = (
    "--tolerations",
    json.dumps([{"key": GPU, "operator": "Exists", "effect": "NoSchedule"}]),
)
FITTING = (*SELECTOR, *TOLERATIONS)
IDENTITY = {"iam.gke.io/gcp-service-account": "repot@our-project.iam.gserviceaccount.com"}
EXEC_API = "client.authentication.k8s.io/v1"


@dataclass(frozen=True)
class Check:
    """One result in the JSON report."""

    state: str
    finding: str
    fix: str


@dataclass(frozen=True)
class Report:
    """Exit code and results of one command."""

    exit_code: int
    checks: dict[str, Check]

    def only_problem(self) -> Check:
        """Return the only problem: it has a one-line finding and fix, and makes the exit code 1."""
        (found,) = [check for check in self.checks.values() if check.state == "problem"]
        assert self.exit_code == 1
        assert found.finding.count("\n") == found.fix.count("\n") == 0
        assert found.fix
        return found


@pytest.fixture(autouse=True)
def isolated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide this machine's user settings, and start no slow process in every test."""
    for name in [
        name
        for name in os.environ
        if name.startswith(("KF_", "KUBE", "AWS_", "GOOGLE_", "CLOUDSDK_"))
    ]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(installation, "check_tensorflow", lambda: ok("TensorFlow", "works"))
    monkeypatch.setattr(machine, "check_sandbox", lambda: ok("sandbox", "works"))


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
def use_kubeconfig(
    api: KubernetesApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., None]:
    """Return a function that writes and selects a kubeconfig; arguments of write_kubeconfig."""

    def select(address: str | None = None, **fields: Any) -> None:
        path = write_kubeconfig(tmp_path / "kubeconfig", address or api.address, **fields)
        monkeypatch.setenv("KUBECONFIG", str(path))
        # The Kubernetes client of the KFP client read the variable when it was imported.
        monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(path))

    return select


@pytest.fixture
def admin(use_kubeconfig: Callable[..., None]) -> None:
    use_kubeconfig(token=ADMIN_TOKEN)


def doctor(*arguments: str | Path) -> Report:
    ended = run_repot("doctor", "--format", "json", *arguments)
    assert ended.errors == ""
    content = json.loads(ended.output)
    assert content["ready"] == (ended.exit_code == 0)
    names = [found["name"] for found in content["checks"]]
    assert len(names) == len(set(names))
    return Report(
        ended.exit_code,
        {
            found["name"]: Check(found["state"], found["finding"], found["fix"])
            for found in content["checks"]
        },
    )


@pytest.mark.usefixtures("admin")
def test_ready_cluster_is_reported_ready_and_is_not_changed(
    api: KubernetesApi, kfp: KfpApi, tmp_path: Path
) -> None:
    report = doctor(*FITTING, "--storage-uri", tmp_path / "storage")

    assert report.exit_code == 0
    assert {name for name, check in report.checks.items() if check.state != "ok"} == {
        "pod storage",
        "secrets",
        "cpu image",
        "trainer image",
    }
    assert report.checks["cluster"].finding.endswith(
        "context test of kubeconfig, Kubernetes v1.36.0, as kubernetes-admin"
    )
    assert "2.17" in report.checks["server"].finding
    assert (
        report.checks["sign-in"].finding
        == "can list the experiments, with the credentials of kubeconfig"
    )
    assert report.checks["service account"].finding.startswith(
        "repot-runner, acting as repot@our-project"
    )
    assert (
        "8 nvidia.com/gpu, 8 of them free, at most 4 on one node; 1 requested"
        in report.checks["trainer nodes"].finding
    )
    assert api.changes == []
    assert kfp.changes == []
    assert not (tmp_path / "storage").exists()


def test_without_options_only_this_machine_is_checked() -> None:
    report = doctor()

    assert report.exit_code == 0
    assert {name for name, check in report.checks.items() if check.state == "not checked"} == {
        "access",
        "server",
        "cluster",
    }


def test_command_in_its_own_process_imports_tensorflow(tmp_path: Path) -> None:
    ended = repot("doctor", cwd=tmp_path)

    assert ended.returncode == 0, ended.stdout
    assert ended.stderr == ""
    assert "  ✓ TensorFlow        imported; " in ended.stdout
    assert ended.stdout.splitlines()[-1].startswith("Ready")


def test_default_format_is_a_table_with_fixes() -> None:
    ended = run_repot("doctor", "--host", "http://127.0.0.1:9")

    lines = ended.output.splitlines()
    at = next(index for index, line in enumerate(lines) if line.startswith("  ✗ server"))
    assert "connection refused" in lines[at]
    assert lines[at + 1].strip().startswith("→ Check --host")
    assert lines[-1] == "Not ready: 1 problem."
    assert (ended.exit_code, ended.errors) == (1, "")


def test_wrong_options_are_all_reported_before_any_request(
    api: KubernetesApi, use_kubeconfig: Callable[..., None]
) -> None:
    use_kubeconfig(token=ADMIN_TOKEN)

    ended = run_repot(
        "doctor",
        *("--node-selector", "gpu=l4"),
        *("--tolerations", '{"key": "x"}'),
        *("--accelerator-type", "nvidia-l4"),
        *("--storage-uri", "ftp://x"),
        *("--token-file", "/no/such/file"),
        *("--cpu-image", "Registry/Repot"),
        *("--trainer-image", "https://registry/repot"),
    )

    assert ended.exit_code == 2
    assert all(
        part in ended.errors
        for part in (
            *("--node-selector", "--tolerations", "accelerator_type", "ftp", "file"),
            "cpu_image must be a container image reference",
            "trainer_image must be a container image reference",
        )
    )
    assert run_repot("doctor", "--accelerator-count", "-1").exit_code == 2
    assert api.requests == []


# Connecting to the cluster.


def test_cluster_options_without_a_cluster_are_a_problem() -> None:
    for option in (
        ("--namespace", "x"),
        ("--accelerator-count", "1"),
        ("--service-account", "x"),
        ("--cpu-image", "registry.local/repot-cpu:1"),
        SELECTOR,
    ):
        assert "kubeconfig selects none" in doctor(*option).only_problem().finding
    assert "There is no kubeconfig" in doctor("--context", "prod").only_problem().finding


def test_expired_token_is_a_problem_and_is_not_printed(use_kubeconfig: Callable[..., None]) -> None:
    use_kubeconfig(token="expired-and-secret")

    problem = doctor().only_problem()

    assert "does not accept the credentials of kubeconfig (401)" in problem.finding
    assert "Log in again" in problem.fix
    assert "secret" not in problem.finding


def test_missing_token_is_a_problem(use_kubeconfig: Callable[..., None]) -> None:
    use_kubeconfig(token="")

    assert "missing or expired" in doctor().only_problem().finding


def test_missing_failing_or_hanging_credential_plugin_is_a_problem(
    use_kubeconfig: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kubeconfig, "_LOGIN_SECONDS", 0.3)
    commands = {
        "no-such-plugin": [],
        "sh": ["-c", "echo please log in >&2; exit 1"],
        "sleep": ["3"],
    }
    findings = []
    for command, arguments in commands.items():
        use_kubeconfig(
            user={
                "exec": {
                    "apiVersion": EXEC_API,
                    "command": command,
                    "args": arguments,
                    "interactiveMode": "Never",
                }
            }
        )
        findings.append(doctor().only_problem().finding)

    missing, failing, hanging = findings
    assert "no-such-plugin" in missing
    assert "please log in" in failing
    assert "does not end within 0.3 s" in hanging


def test_unreachable_cluster_is_reported_within_seconds(
    use_kubeconfig: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster_client, "_TIMEOUT_SECONDS", (0.3, 0.3))
    started = time.monotonic()
    problems = []
    with socket.create_server(("127.0.0.1", 0)) as silent:
        for address in (
            "http://127.0.0.1:9",
            "https://no-such-host.invalid",
            f"http://127.0.0.1:{silent.getsockname()[1]}",
        ):
            use_kubeconfig(address, token="x")
            problems.append(doctor().only_problem())

    refused, unknown_host, timeout = problems
    assert "nothing listens at" in refused.finding
    assert "KUBECONFIG=/dev/null" in refused.fix
    assert "cannot be resolved" in unknown_host.finding
    assert "does not respond in time" in timeout.finding
    assert time.monotonic() - started < 20


def test_pod_without_a_token_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "9")

    report = doctor("--kfp-namespace", "here")

    assert "the cluster of this pod cannot be used" in report.checks["cluster"].finding
    assert "automountServiceAccountToken" in report.checks["cluster"].fix
    assert "ml-pipeline.here.svc" in report.checks["server"].finding


def test_https_address_of_an_http_server_is_a_problem(
    api: KubernetesApi, use_kubeconfig: Callable[..., None]
) -> None:
    use_kubeconfig(api.address.replace("http:", "https:"), token="x")

    assert "the TLS connection to" in doctor().only_problem().finding


def test_server_that_is_not_kubernetes_is_a_problem(
    kfp: KfpApi, use_kubeconfig: Callable[..., None]
) -> None:
    use_kubeconfig(kfp.address, token="x")

    assert "not as a Kubernetes API" in doctor().only_problem().finding


@pytest.mark.usefixtures("admin")
def test_login_page_in_front_of_the_cluster_is_a_problem(api: KubernetesApi) -> None:
    page = plain("<!doctype html><title>Log in</title>")
    api.answers = [("GET", "^/version", page)]

    assert "not as a Kubernetes API" in doctor().only_problem().finding


@pytest.mark.usefixtures("admin")
def test_failed_request_does_not_hide_the_other_results(api: KubernetesApi) -> None:
    api.answers = [("GET", "/configmaps/kfp-launcher", plain("etcd is away", status=500))]

    report = doctor(*FITTING)

    assert "responded with 500" in report.only_problem().finding
    assert report.checks["trainer nodes"].state == "ok"


def test_user_is_omitted_on_a_cluster_too_old_to_report_it(
    api: KubernetesApi, use_kubeconfig: Callable[..., None]
) -> None:
    use_kubeconfig(token=ADMIN_TOKEN)
    api.answers = [("POST", "selfsubjectreviews", plain("404 page not found", status=404))]

    assert doctor(*FITTING).checks["cluster"].finding.endswith("Kubernetes v1.36.0")


@pytest.mark.usefixtures("admin")
def test_context_option_selects_the_context(api: KubernetesApi) -> None:
    assert doctor(*FITTING, "--context", "test").exit_code == 0
    problem = doctor(*FITTING, "--context", "prod").only_problem()
    assert problem.fix == "Choose with --context among: test."


# Accounts, permissions and secrets in the namespace.


@pytest.mark.usefixtures("admin")
def test_missing_namespace_skips_the_checks_in_it() -> None:
    report = doctor(*FITTING, "--namespace", "nowhere")

    assert report.only_problem().finding == "The cluster has no namespace nowhere."
    assert "service account" not in report.checks
    assert report.checks["trainer nodes"].state == "ok"


@pytest.mark.usefixtures("admin")
def test_missing_service_accounts_are_reported(api: KubernetesApi) -> None:
    drop(api, "serviceaccounts")

    report = doctor(*FITTING)

    assert "kubeflow has no repot-runner" in report.only_problem().finding
    assert report.checks["worker account"].state == "warning"
    assert "kubectl apply -k manifests/overlays/" in report.checks["service account"].fix
    assert "run permissions" not in report.checks


@pytest.mark.usefixtures("admin")
def test_kfp_account_is_the_fallback_for_a_missing_one(api: KubernetesApi) -> None:
    drop(api, "serviceaccounts")
    put(api, "ServiceAccount", "pipeline-runner")
    api.rules.grant(
        f"system:serviceaccount:{NAMESPACE}:pipeline-runner", all_permissions(), namespace=NAMESPACE
    )

    report = doctor(*FITTING)

    assert report.exit_code == 0
    assert "runs use KFP's own pipeline-runner" in report.checks["service account"].finding
    assert report.checks["run permissions"].finding.startswith("pipeline-runner may get")
    assert (
        "no pipeline-walker"
        in doctor(*FITTING, "--service-account", "pipeline-walker").only_problem().finding
    )


@pytest.mark.usefixtures("admin")
def test_missing_permissions_are_listed(api: KubernetesApi) -> None:
    api.rules.grants.clear()
    api.rules.grant(RUNNER, role("get", "configmaps", "pods/log"), namespace=NAMESPACE)
    api.rules.grant(
        RUNNER, role("create get list watch", "jobs", group="batch"), namespace="elsewhere"
    )

    report = doctor(*FITTING)

    assert report.exit_code == 1
    assert report.checks["run permissions"].finding == (
        "repot-runner also needs permission to get/list/watch pods, "
        "create/patch workflowtaskresults.argoproj.io."
    )
    assert report.checks["Job permissions"].finding == (
        "repot-job-runner also needs permission to create/get/list/watch/delete jobs.batch, "
        "create/get/delete services, get pods/log, list events."
    )


@pytest.mark.usefixtures("admin")
def test_runner_without_job_permissions_is_ready_for_training_in_its_pod() -> None:
    report = doctor(*FITTING, "--service-account", "repot-runner")

    assert report.exit_code == 0
    assert report.checks["Job permissions"].state == "not checked"
    assert "which needs repot-job-runner" in report.checks["Job permissions"].finding
    report = doctor(*FITTING, "--service-account", "repot-job-runner")
    assert report.checks["Job permissions"].state == report.checks["run permissions"].state == "ok"


@pytest.mark.usefixtures("admin")
def test_runner_with_job_permissions_is_a_warning(api: KubernetesApi) -> None:
    api.rules.grant(RUNNER, all_permissions(), namespace=NAMESPACE)

    found = doctor(*FITTING, "--service-account", "repot-runner").checks["Job permissions"]

    assert found.state == "warning"
    assert "repot-runner may create Jobs and read logs" in found.finding


@pytest.mark.usefixtures("admin")
@pytest.mark.parametrize("name", JOB_POLICIES)
def test_missing_admission_policy_is_a_warning(api: KubernetesApi, name: str) -> None:
    assert doctor(*FITTING).checks["Job policy"].state == "ok"
    bindings = "validatingadmissionpolicybindings"
    del api.store.objects[
        next(key for key in api.store.objects if name in key and bindings in str(key))
    ]

    report = doctor(*FITTING)

    assert report.exit_code == 0
    assert report.checks["Job policy"].state == "warning"
    assert report.checks["Job policy"].finding.endswith(f"the cluster has no {name}.")


@pytest.mark.usefixtures("admin")
def test_missing_account_for_jobs_is_not_a_problem(api: KubernetesApi) -> None:
    del api.store.objects[next(key for key in api.store.objects if "repot-job-runner" in key)]

    report = doctor(*FITTING)

    assert report.exit_code == 0
    assert report.checks["Job run account"].state == "not checked"


def test_permissions_are_those_of_the_account_not_of_the_user(
    api: KubernetesApi, use_kubeconfig: Callable[..., None]
) -> None:
    use_kubeconfig(token="alice-token")
    let_in(
        api,
        "alice",
        "alice-token",
        ("get list", "*"),
        ("get", "services/proxy"),
        ("impersonate", "serviceaccounts"),
    )

    assert doctor(*FITTING).exit_code == 0
    api.rules.grants = [grant for grant in api.rules.grants if grant.user != RUNNER]
    assert doctor(*FITTING).exit_code == 1


def test_missing_permission_to_impersonate_is_a_warning_with_a_command(
    api: KubernetesApi, use_kubeconfig: Callable[..., None]
) -> None:
    use_kubeconfig(token="alice-token")
    let_in(api, "alice", "alice-token", ("get list", "*"), ("get", "services/proxy"))

    report = doctor(*FITTING)

    assert report.exit_code == 0
    assert report.checks["run permissions"].state == "warning"
    assert (
        f"kubectl auth can-i get configmaps -n kubeflow --as {RUNNER}"
        in report.checks["run permissions"].fix
    )


def test_pod_running_as_the_account_needs_no_impersonation(
    api: KubernetesApi, use_kubeconfig: Callable[..., None]
) -> None:
    use_kubeconfig(token="pod-token")
    let_in(api, RUNNER, "pod-token", ("get list", "*"), ("get", "services/proxy"))

    assert doctor(*FITTING).checks["run permissions"].state == "ok"


def test_forbidden_requests_are_warnings(
    api: KubernetesApi, use_kubeconfig: Callable[..., None]
) -> None:
    use_kubeconfig(token="alice-token")
    let_in(api, "alice", "alice-token", ("get", "services/proxy"))

    report = doctor(*FITTING)

    assert report.exit_code == 0
    forbidden = {
        "namespace",
        "service account",
        "worker account",
        "settings",
        "pod storage",
        "kfp-launcher",
        "secrets",
        "quota",
    }
    assert {
        name for name, check in report.checks.items() if check.state == "warning"
    } == forbidden | {"trainer nodes"}
    assert 'User "alice" cannot list resource "nodes"' in report.checks["trainer nodes"].finding
    assert "Ask for permission to list nodes and pods" in report.checks["trainer nodes"].fix


@pytest.mark.usefixtures("admin")
def test_launcher_secret_must_exist_and_its_contents_are_not_read(
    api: KubernetesApi,
) -> None:
    providers = "s3: {default: {credentials: {secretRef: {secretName: keys}}}}"
    launcher = {"defaultPipelineRoot": "s3://bucket/kfp", "providers": providers}
    put(api, "ConfigMap", "kfp-launcher", data=launcher)

    report = doctor(*FITTING)
    assert report.checks["secrets"].finding == "kubeflow has no keys (used by kfp-launcher)."
    # KFP's launcher reads it as the run's service account.
    assert "get secrets keys" in report.checks["run permissions"].finding

    put(api, "Secret", "keys", stringData={"accesskey": "s3cret"})
    report = doctor(*FITTING)
    assert report.checks["secrets"].finding == "keys in kubeflow; contents were not read"
    assert (
        report.checks["kfp-launcher"].finding
        == "artifacts go to s3://bucket/kfp, with the keys in keys"
    )


@pytest.mark.usefixtures("admin")
def test_missing_image_pull_secret_is_a_problem(api: KubernetesApi) -> None:
    put(
        api,
        "ServiceAccount",
        "repot-runner",
        annotations=IDENTITY,
        imagePullSecrets=[{"name": "registry"}],
    )

    assert (
        doctor(*FITTING).only_problem().finding
        == "kubeflow has no registry (used by repot-runner)."
    )


@pytest.mark.usefixtures("admin")
def test_placeholders_of_the_manifests_are_problems(api: KubernetesApi) -> None:
    put(api, "ConfigMap", "kfp-launcher", data={"defaultPipelineRoot": "gs://your-bucket/kfp"})
    annotations = {"iam.gke.io/gcp-service-account": "repot@your-project.iam.gserviceaccount.com"}
    put(api, "ServiceAccount", "repot-runner", annotations=annotations)

    report = doctor(*FITTING)

    assert report.exit_code == 1
    assert [report.checks[name].state for name in ("kfp-launcher", "service account")] == [
        "problem",
        "problem",
    ]
    assert "settings.yaml" in report.checks["kfp-launcher"].fix


# Storage, from this machine and from pods.


@pytest.mark.usefixtures("admin")
def test_pods_reach_gcs_by_identity_or_by_secret(api: KubernetesApi, gcs: str) -> None:
    by_identity = doctor(*FITTING, "--storage-uri", gcs)
    put(api, "ConfigMap", "repot-settings", data={})
    put(api, "ServiceAccount", "repot-runner")
    by_nothing = doctor(*FITTING, "--storage-uri", gcs)
    put(api, "Secret", "repot-google-key", stringData={"key.json": "s3cret"})
    by_secret = doctor(*FITTING, "--storage-uri", gcs)

    assert by_identity.checks["access"].finding == f"{gcs} can be written, read and listed"
    assert "STORAGE_EMULATOR_HOST" in by_identity.checks["credentials"].finding
    assert by_identity.checks["pod storage"].finding.startswith(
        "by workload identity, as repot@our-project"
    )
    assert by_nothing.only_problem() == by_nothing.checks["pod storage"]
    assert "is missing from repot-runner: " in by_nothing.checks["pod storage"].finding
    assert "--from-file key.json" in by_nothing.checks["pod storage"].fix
    assert (
        by_secret.checks["pod storage"].finding
        == "with the key in the secret repot-google-key, which was not read"
    )
    assert [report.exit_code for report in (by_identity, by_nothing, by_secret)] == [0, 1, 0]


@pytest.mark.usefixtures("admin")
@pytest.mark.parametrize(
    ("account", "check"),
    [
        ("repot-runner", "service account"),
        ("repot-job-runner", "Job run account"),
        ("repot-worker", "worker account"),
    ],
)
@pytest.mark.parametrize("actual", ["", "other@our-project.iam.gserviceaccount.com"])
def test_account_without_the_identity_of_the_settings_is_a_problem(
    api: KubernetesApi, account: str, check: str, actual: str
) -> None:
    annotations = dict.fromkeys(IDENTITY, actual) if actual else None
    put(api, "ServiceAccount", account, annotations=annotations)

    found = doctor(*FITTING).only_problem()

    ((annotation, expected),) = IDENTITY.items()
    assert found == doctor(*FITTING).checks[check]
    state = (
        f"has the annotation {annotation}={actual}"
        if actual
        else f"lacks the annotation {annotation}"
    )
    assert found.finding.startswith(f"{account} {state}, and GOOGLE_SERVICE_ACCOUNT in ")
    assert found.fix.endswith(f"serviceaccount {account} -n kubeflow {annotation}={expected}.")


@pytest.mark.usefixtures("admin")
def test_worker_without_identity_or_key_for_gcs_is_a_problem(api: KubernetesApi, gcs: str) -> None:
    put(api, "ConfigMap", "repot-settings", data={})
    put(api, "ServiceAccount", "repot-worker")

    found = doctor(*FITTING, "--storage-uri", gcs).only_problem()

    assert "is missing from repot-worker: " in found.finding


@pytest.mark.usefixtures("admin")
def test_access_that_the_bucket_grants_directly_is_only_a_warning(
    api: KubernetesApi, gcs: str
) -> None:
    put(api, "ConfigMap", "repot-settings", data={"GOOGLE_SERVICE_ACCOUNT": ""})
    put(api, "ServiceAccount", "repot-runner")

    report = doctor(*FITTING, "--storage-uri", gcs)

    assert report.exit_code == 0
    assert report.checks["pod storage"].state == "warning"
    assert "GOOGLE_SERVICE_ACCOUNT is empty" in report.checks["pod storage"].finding


@pytest.mark.usefixtures("admin")
def test_placeholder_in_the_settings_is_a_problem(api: KubernetesApi) -> None:
    data = {"GOOGLE_SERVICE_ACCOUNT": "repot@your-project.iam.gserviceaccount.com"}
    put(api, "ConfigMap", "repot-settings", data=data)
    put(api, "ServiceAccount", "repot-worker")

    found = doctor(*FITTING).checks["worker account"]

    assert found.state == "problem"
    assert "GOOGLE_SERVICE_ACCOUNT in repot-settings is repot@your-project" in found.finding


@pytest.mark.usefixtures("gcs")
def test_missing_bucket_is_a_problem() -> None:
    problem = doctor("--storage-uri", "gs://no-such-bucket/here").only_problem()

    assert "there is no bucket gs://no-such-bucket" in problem.finding
    assert problem.fix == "Create it, or correct the name."


def test_unreachable_storage_is_reported_within_seconds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(storage_access, "_ACCESS_SECONDS", 0.5)
    # The abandoned thread ends soon after.
    monkeypatch.setattr("repot.storage.retries.FIRST_DEADLINE_SECONDS", 0.6)
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:9")

    assert (
        "does not respond within 0.5 s"
        in doctor("--storage-uri", "gs://bucket/here").only_problem().finding
    )


# Kubeflow Pipelines.


def test_server_requires_a_token_and_the_token_is_not_printed(
    kfp: KfpApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    kfp.token = "s3cret"
    refused = doctor("--host", kfp.address).only_problem()
    monkeypatch.setenv("KF_PIPELINES_TOKEN", "s3cret")
    accepted = doctor("--host", kfp.address)

    assert "(401)" in refused.finding
    assert "--token-file" in refused.fix
    assert (
        accepted.checks["sign-in"].finding
        == "can list the experiments, with the token in KF_PIPELINES_TOKEN"
    )
    assert "s3cret" not in str(accepted)


def test_server_with_public_health_check_but_private_runs_fails_sign_in(kfp: KfpApi) -> None:
    # The first request is the health check; from then on a token is required.
    kfp.before = lambda *_: setattr(kfp, "token", "s3cret")

    report = doctor("--host", kfp.address)

    assert report.checks["server"].state == "ok"
    assert "(401)" in report.only_problem().finding


@pytest.mark.parametrize(
    ("tag", "state"),
    [("2.15.2", "problem"), ("2.16.0", "ok"), ("v2.17.1", "ok"), ("unknown", "warning")],
)
def test_servers_before_2_16_are_a_problem(kfp: KfpApi, tag: str, state: str) -> None:
    kfp.tag = tag

    assert doctor("--host", kfp.address).checks["server"].state == state


def test_wrong_host_is_a_problem(kfp: KfpApi, api: KubernetesApi, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(ADMIN_TOKEN)
    kfp.answers = [("GET", "/healthz", web_page())]

    assert "responds with a web page" in doctor("--host", kfp.address).only_problem().finding
    assert (
        "404"
        in doctor("--host", api.address, "--token-file", tmp_path / "token").only_problem().finding
    )


def test_multi_user_server_needs_a_namespace(kfp: KfpApi) -> None:
    kfp.store.is_multi_user = True

    assert doctor("--host", kfp.address).only_problem().fix == "Pass --namespace."
    kfp.denied = ("alice",)
    report = doctor("--host", kfp.address, "--namespace", "alice")
    assert "(403)" in report.checks["sign-in"].finding


@pytest.mark.usefixtures("admin")
def test_cluster_without_kubeflow_pipelines_is_a_problem(api: KubernetesApi) -> None:
    api.services.clear()

    assert 'services "ml-pipeline" not found' in doctor(*FITTING).only_problem().finding


# Nodes for the trainer.


@pytest.mark.usefixtures("admin")
@pytest.mark.parametrize(
    ("options", "finding", "fix"),
    [
        (
            ("--node-selector", '{"cloud.google.com/gke-accelerator": "nvidia-a100"}'),
            "nvidia-a100; existing values: nvidia-l4",
            "Correct the selector",
        ),
        (
            ("--node-selector", '{"gpu": "yes"}'),
            "none of 3 nodes has a label gpu",
            "kubectl get nodes --show-labels",
        ),
        (
            (*FITTING, "--accelerator-type", "amd.com/gpu"),
            "No node offers amd.com/gpu; the accelerators offered are: nvidia.com/gpu",
            "--accelerator-count 0",
        ),
        (
            ("--node-selector", '{"kubernetes.io/hostname": "cpu-1"}'),
            "hostname=cpu-1 have no nvidia.com/gpu; these nodes do: gpu-1, gpu-2",
            "Correct the selector",
        ),
        (
            (*FITTING, "--accelerator-count", "8"),
            "No node has 8 nvidia.com/gpu; the largest of 2 matching nodes has 4",
            "Request 4 at most",
        ),
    ],
)
def test_trainer_that_fits_no_node_is_a_problem_with_a_fix(
    options: tuple[str, ...], finding: str, fix: str
) -> None:
    problem = doctor(*options).only_problem()

    assert finding in problem.finding
    assert fix in problem.fix


@pytest.mark.usefixtures("admin")
def test_no_matching_node_is_only_a_warning_with_an_autoscaler(api: KubernetesApi) -> None:
    put(
        api,
        "ConfigMap",
        "cluster-autoscaler-status",
        namespace="kube-system",
        data={"status": "Healthy"},
    )

    report = doctor("--node-selector", '{"gpu": "yes"}')

    assert report.exit_code == 0
    assert "at the moment" in report.checks["trainer nodes"].finding
    assert "autoscaler" in report.checks["trainer nodes"].fix


@pytest.mark.usefixtures("admin")
def test_untolerated_taints_are_reported_with_the_needed_tolerations(api: KubernetesApi) -> None:
    spot = {"key": "spot", "value": "true", "effect": "NoSchedule"}
    for name in ("gpu-1", "gpu-2"):
        api.store.put(make_node(name, labels=L4, gpus=4, taints=[GPU_TAINT, spot]))

    problem = doctor(*FITTING).only_problem()
    assert "gpu-1 has spot=true:NoSchedule" in problem.finding
    tolerations = problem.fix.partition("trainer_tolerations=")[2].removesuffix(".")
    assert doctor(*SELECTOR, "--tolerations", tolerations).exit_code == 0


@pytest.mark.usefixtures("admin")
def test_own_taint_of_the_accelerator_is_a_warning(api: KubernetesApi) -> None:
    put(api, "ConfigMap", "repot-settings", data={})  # without the overlay's tolerations
    report = doctor(*SELECTOR)

    assert report.exit_code == 0
    assert (
        "the taint nvidia.com/gpu=present:NoSchedule, which some clusters (GKE) tolerate"
        in report.checks["trainer nodes"].finding
    )


@pytest.mark.usefixtures("admin")
def test_accelerators_of_running_pods_are_not_free(api: KubernetesApi) -> None:
    api.store.put(make_pod("busy", node="gpu-1", gpus=3))
    api.store.put(make_pod("done", node="gpu-2", gpus=4, phase="Succeeded"))
    api.store.put(make_pod("here", node="gpu-2", gpus=2, namespace=NAMESPACE))

    enough = doctor(*FITTING, "--accelerator-count", "2").checks["trainer nodes"]
    too_few = doctor(*FITTING, "--accelerator-count", "3").checks["trainer nodes"]

    assert "8 nvidia.com/gpu, 3 of them free, at most 2 on one node; 2 requested" in enough.finding
    assert (enough.state, too_few.state) == ("ok", "warning")
    assert "will wait" in too_few.fix


def test_free_accelerators_are_unknown_without_permission_to_list_pods(
    api: KubernetesApi, use_kubeconfig: Callable[..., None]
) -> None:
    use_kubeconfig(token="alice-token")
    let_in(api, "alice", "alice-token", ("get list", "nodes"), ("get", "services/proxy"))

    found = doctor(*FITTING).checks["trainer nodes"]

    assert found.state == "warning"
    assert "8 nvidia.com/gpu; how many are free is unknown" in found.finding


@pytest.mark.usefixtures("admin")
def test_unready_and_cordoned_nodes_are_reported(api: KubernetesApi) -> None:
    api.store.put(make_node("gpu-1", labels=L4, gpus=4, is_ready=False))
    api.store.put(make_node("gpu-2", labels=L4, gpus=4, is_cordoned=True))

    assert "gpu-1, gpu-2 not ready or cordoned" in doctor(*FITTING).only_problem().finding


@pytest.mark.usefixtures("admin")
def test_trainer_without_accelerators_fits_any_node(api: KubernetesApi) -> None:
    drop(api, "nodes")
    api.store.put(make_node("cpu-1"))

    put(api, "ConfigMap", "repot-settings", data={})
    report = doctor("--accelerator-count", "0")

    assert report.exit_code == 0
    assert (
        report.checks["trainer nodes"].finding
        == "1 node can run the trainer; no accelerator requested"
    )
    assert report.checks["quota"].state == "not checked"
    drop(api, "nodes")
    assert doctor("--accelerator-count", "0").only_problem().finding == "The cluster has no nodes."


@pytest.mark.usefixtures("admin")
def test_large_cluster_is_read_page_by_page(
    api: KubernetesApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster_client, "_PAGE_SIZE", 2)
    for index in range(7):
        api.store.put(make_pod(f"pod-{index}", node="gpu-2", gpus=0 if index % 2 else 1))
    api.store.put(make_node("gpu-3", labels=L4, gpus=4))

    finding = doctor(*FITTING).checks["trainer nodes"].finding

    assert (
        "3 nodes for cloud.google.com/gke-accelerator=nvidia-l4 with 12 nvidia.com/gpu" in finding
    )
    assert "8 of them free" in finding


def put_small_nodes(api: KubernetesApi) -> None:
    for name in ("gpu-1", "gpu-2"):
        small = make_node(name, labels=L4, gpus=4, taints=[GPU_TAINT])
        small["status"]["allocatable"] |= {"cpu": "8", "memory": "14Gi"}
        api.store.put(small)
    tiny = make_node("cpu-1")
    tiny["status"]["allocatable"] |= {"cpu": "4", "memory": "7Gi"}
    api.store.put(tiny)


@pytest.mark.usefixtures("admin")
def test_pods_larger_than_every_node_are_a_problem_with_the_closest_node(
    api: KubernetesApi,
) -> None:
    put_small_nodes(api)

    found = doctor(*FITTING).only_problem()

    assert "evaluator pods request cpu 2, memory 8Gi; the closest node, cpu-1, has memory 7Gi" in (
        found.finding
    )
    assert "trainer pods request cpu 4, memory 16Gi, nvidia.com/gpu 1; the closest node, gpu-1" in (
        found.finding
    )
    assert "Lower evaluator_memory to 7Gi or less" in found.fix
    put(
        api,
        "ConfigMap",
        "cluster-autoscaler-status",
        namespace="kube-system",
        data={"status": "Healthy"},
    )
    assert doctor(*FITTING).checks["pod sizes"].state == "warning"


@pytest.mark.usefixtures("admin")
def test_pods_are_those_of_the_cluster_s_defaults(api: KubernetesApi) -> None:
    put(
        api,
        "ConfigMap",
        "repot-settings",
        data={
            "STORAGE_URI": "gs://our-bucket/repot",
            "EVALUATOR_MEMORY": "40Gi",
            "TRAINER_NODE_SELECTOR": json.dumps(L4),
            "TRAINER_TOLERATIONS": TOLERATIONS[1],
        },
    )

    report = doctor()

    assert "evaluator pods request cpu 2, memory 40Gi" in report.checks["pod sizes"].finding
    assert "for cloud.google.com/gke-accelerator=nvidia-l4 with 8 nvidia.com/gpu" in (
        report.checks["trainer nodes"].finding
    )


@pytest.mark.usefixtures("admin")
def test_full_nodes_are_a_warning(api: KubernetesApi) -> None:
    for name in ("cpu-1", "gpu-1", "gpu-2"):
        busy = make_pod(f"on-{name}", node=name, gpus=0)
        busy["spec"]["containers"][0]["resources"] = {"requests": {"cpu": "6"}}
        api.store.put(busy)

    found = doctor(*FITTING).checks["pod sizes"]

    assert found.state == "warning"
    assert "builder pods request cpu 2, memory 4Gi; every suitable node is full" in found.finding
    assert "has cpu 1.91 of 2 free" in found.finding


@pytest.mark.usefixtures("admin")
def test_quota_below_the_request_is_a_problem() -> None:
    for count, state in ((4, "ok"), (9, "problem")):
        assert doctor(*FITTING, "--accelerator-count", str(count)).checks["quota"].state == state


@pytest.mark.usefixtures("admin")
def test_container_images_already_on_a_node_are_reported(api: KubernetesApi) -> None:
    unknown = doctor(*FITTING).checks["trainer image"]
    image = unknown.finding.partition(": ")[0]
    api.store.put(make_node("gpu-1", labels=L4, gpus=4, images=(image, "busybox:1")))

    known = doctor(*FITTING).checks["trainer image"]

    assert "whether nodes can pull it cannot be checked" in unknown.finding
    assert known.finding == f"{image} is already on 1 of 3 nodes"


@pytest.mark.usefixtures("admin")
def test_images_of_the_options_are_judged_instead_of_the_defaults(api: KubernetesApi) -> None:
    images = ("registry.local/repot-cpu:1", "registry.local/repot-trainer:1")
    api.store.put(make_node("gpu-1", labels=L4, gpus=4, images=images))

    checks = doctor(*FITTING, "--cpu-image", images[0], "--trainer-image", images[1]).checks

    for name, image in zip(("cpu image", "trainer image"), images, strict=True):
        assert checks[name].finding == f"{image} is already on 1 of 3 nodes"


def all_permissions() -> dict[str, Any]:
    return {"rules": [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]}


def drop(api: KubernetesApi, resource: str) -> None:
    for key in [key for key in api.store.objects if key[0] == resource]:
        del api.store.objects[key]


def put(
    api: KubernetesApi,
    kind: str,
    name: str,
    *,
    namespace: str = NAMESPACE,
    annotations: dict[str, str] | None = None,
    **fields: Any,
) -> None:
    metadata = {"name": name} | ({"annotations": annotations} if annotations else {})
    api.store.put(
        {"apiVersion": "v1", "kind": kind, "metadata": metadata, **fields}, namespace=namespace
    )
