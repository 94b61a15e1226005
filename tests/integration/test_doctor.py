"""`repot doctor` against real HTTP servers: Kubernetes through kubeconfig and the real client, and KFP behind it."""

import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from repot_pipelines.doctor import cluster as cluster_module
from repot_pipelines.doctor import kubeconfig as kubeconfig_module
from repot_pipelines.doctor import packages, storage_access
from repot_pipelines.doctor.check import ok
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
PLACED = (*SELECTOR, *TOLERATIONS)
CLIENT = "client.authentication.k8s.io/v1"


@dataclass(frozen=True)
class Row:
    """One result."""

    state: str
    finding: str
    fix: str


@dataclass(frozen=True)
class Told:
    """What the command said."""

    exit_code: int
    rows: dict[str, Row]

    def only_red(self) -> Row:
        """Return the one red line: red comes with a fix, is one line, and takes the exit code with it."""
        (found,) = [row for row in self.rows.values() if row.state == "problem"]
        assert self.exit_code == 1
        assert found.finding.count("\n") == found.fix.count("\n") == 0
        assert found.fix
        return found


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing of this machine's user count, and do not start TensorFlow each time."""
    for name in [
        name
        for name in os.environ
        if name.startswith(("KF_", "KUBE", "AWS_", "GOOGLE_", "CLOUDSDK_"))
    ]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(packages, "check_tensorflow", lambda: ok("TensorFlow", "starts"))


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
def use(api: KubernetesApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that makes a kubeconfig the current one; its arguments are those of write_kubeconfig."""

    def make_current(address: str | None = None, **given: Any) -> None:
        path = write_kubeconfig(tmp_path / "kubeconfig", address or api.address, **given)
        monkeypatch.setenv("KUBECONFIG", str(path))
        # The KFP client's Kubernetes client has read the variable when it was imported.
        monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(path))

    return make_current


@pytest.fixture
def admin(use: Callable[..., None]) -> None:
    use(token=ADMIN_TOKEN)


def doctor(*arguments: str | Path) -> Told:
    ended = run_repot("doctor", "--format", "json", *arguments)
    assert ended.errors == ""
    facts = json.loads(ended.output)
    assert facts["ready"] == (ended.exit_code == 0)
    names = [found["name"] for found in facts["checks"]]
    assert len(names) == len(set(names))
    return Told(
        ended.exit_code,
        {
            found["name"]: Row(found["state"], found["finding"], found["fix"])
            for found in facts["checks"]
        },
    )


@pytest.mark.usefixtures("admin")
def test_a_cluster_that_is_ready_is_ready_and_stays_as_it_was(
    api: KubernetesApi, kfp: KfpApi, tmp_path: Path
) -> None:
    told = doctor(*PLACED, "--storage-uri", tmp_path / "storage")

    assert told.exit_code == 0
    assert {name for name, row in told.rows.items() if row.state != "ok"} == {
        "pods' storage",
        "secrets",
        "cpu image",
        "trainer image",
    }
    assert told.rows["cluster"].finding.endswith(
        "context test of kubeconfig, Kubernetes v1.36.0, as kubernetes-admin"
    )
    assert "2.17" in told.rows["server"].finding
    assert (
        told.rows["sign-in"].finding
        == "may list the experiments, with the credentials of kubeconfig"
    )
    assert told.rows["service account"].finding.startswith(
        "repot-runner, acting as repot@our-project"
    )
    assert (
        "8 nvidia.com/gpu, 8 of them free, at most 4 on one node; 1 asked for"
        in told.rows["trainer nodes"].finding
    )
    assert api.changes == []
    assert kfp.changes == []
    assert not (tmp_path / "storage").exists()


def test_without_a_cluster_only_this_machine_is_looked_at() -> None:
    told = doctor()

    assert told.exit_code == 0
    assert {name for name, row in told.rows.items() if row.state == "not checked"} == {
        "access",
        "server",
        "cluster",
    }


def test_the_real_command_starts_tensorflow_too(tmp_path: Path) -> None:
    ended = repot("doctor", cwd=tmp_path)

    assert ended.returncode == 0, ended.stdout
    assert ended.stderr == ""
    assert "  ✓ TensorFlow        starts, and sees" in ended.stdout
    assert ended.stdout.splitlines()[-1].startswith("Ready")


def test_the_table_is_for_people() -> None:
    ended = run_repot("doctor", "--host", "http://127.0.0.1:9")

    lines = ended.output.splitlines()
    at = next(index for index, line in enumerate(lines) if line.startswith("  ✗ server"))
    assert "connection refused" in lines[at]
    assert lines[at + 1].strip().startswith("→ Check --host")
    assert lines[-1] == "Not ready: 1 problem."
    assert (ended.exit_code, ended.errors) == (1, "")


def test_wrong_usage_is_told_at_once_and_nobody_is_asked(
    api: KubernetesApi, use: Callable[..., None]
) -> None:
    use(token=ADMIN_TOKEN)

    ended = run_repot(
        "doctor",
        *("--node-selector", "gpu=l4"),
        *("--tolerations", '{"key": "x"}'),
        *("--accelerator-type", "nvidia-l4"),
        *("--storage-uri", "ftp://x"),
        *("--token-file", "/no/such/file"),
    )

    assert ended.exit_code == 2
    assert all(
        word in ended.errors
        for word in ("--node-selector", "--tolerations", "accelerator_type", "ftp", "file")
    )
    assert run_repot("doctor", "--accelerator-count", "-1").exit_code == 2
    assert api.requests == []


# The way to the cluster.


def test_options_about_a_cluster_want_one() -> None:
    for option in (
        ("--namespace", "x"),
        ("--accelerator-count", "1"),
        ("--service-account", "x"),
        SELECTOR,
    ):
        assert "kubeconfig names none" in doctor(*option).only_red().finding
    assert "There is no kubeconfig" in doctor("--context", "prod").only_red().finding


def test_an_expired_token_is_one_line(use: Callable[..., None]) -> None:
    use(token="expired-and-secret")

    red = doctor().only_red()

    assert "does not accept the credentials of kubeconfig (401)" in red.finding
    assert "Log in again" in red.fix
    assert "secret" not in red.finding


def test_no_token_at_all_is_one_line(use: Callable[..., None]) -> None:
    use(token="")

    assert "missing or expired" in doctor().only_red().finding


def test_a_plug_in_that_is_missing_fails_or_hangs_is_one_line(
    use: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kubeconfig_module, "_LOGIN_SECONDS", 0.3)
    commands = {
        "no-such-plug-in": [],
        "sh": ["-c", "echo please log in >&2; exit 1"],
        "sleep": ["3"],
    }
    told = []
    for command, arguments in commands.items():
        use(
            user={
                "exec": {
                    "apiVersion": CLIENT,
                    "command": command,
                    "args": arguments,
                    "interactiveMode": "Never",
                }
            }
        )
        told.append(doctor().only_red().finding)

    assert "no-such-plug-in" in told[0]
    assert "please log in" in told[1]
    assert "does not end within 0.3 s" in told[2]


def test_nobody_there_is_told_within_seconds(
    use: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster_module, "_TIMEOUT_SECONDS", (0.3, 0.3))
    started = time.monotonic()
    told = []
    with socket.create_server(("127.0.0.1", 0)) as silent:
        for address in (
            "http://127.0.0.1:9",
            "https://no-such-host.invalid",
            f"http://127.0.0.1:{silent.getsockname()[1]}",
        ):
            use(address, token="x")
            told.append(doctor().only_red())

    assert [row.finding.partition(":")[2].strip().split(" ")[0] for row in told][:2] == [
        "nothing",
        "there",
    ]
    assert "KUBECONFIG=/dev/null" in told[0].fix
    assert "does not answer in time" in told[2].finding
    assert time.monotonic() - started < 20


def test_a_pod_without_a_token_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "9")

    told = doctor("--kfp-namespace", "here")

    assert "the cluster of this pod cannot be used" in told.rows["cluster"].finding
    assert "automountServiceAccountToken" in told.rows["cluster"].fix
    assert "ml-pipeline.here.svc" in told.rows["server"].finding


def test_http_in_place_of_https_is_one_line(api: KubernetesApi, use: Callable[..., None]) -> None:
    use(api.address.replace("http:", "https:"), token="x")

    assert "the TLS connection to" in doctor().only_red().finding


def test_a_server_that_is_no_cluster_is_one_line(kfp: KfpApi, use: Callable[..., None]) -> None:
    use(kfp.address, token="x")

    assert "not as a Kubernetes API" in doctor().only_red().finding


@pytest.mark.usefixtures("admin")
def test_a_login_page_in_front_of_the_cluster_is_one_line(api: KubernetesApi) -> None:
    page = plain("<!doctype html><title>Log in</title>")
    api.answers = [("GET", "^/version", page)]

    assert "not as a Kubernetes API" in doctor().only_red().finding


@pytest.mark.usefixtures("admin")
def test_a_cluster_that_fails_in_the_middle_does_not_hide_the_rest(api: KubernetesApi) -> None:
    api.answers = [("GET", "/configmaps/kfp-launcher", plain("etcd is away", status=500))]

    told = doctor(*PLACED)

    assert "answered 500" in told.only_red().finding
    assert told.rows["trainer nodes"].state == "ok"


def test_an_old_cluster_does_not_say_who_one_is(
    api: KubernetesApi, use: Callable[..., None]
) -> None:
    use(token=ADMIN_TOKEN)
    api.answers = [("POST", "selfsubjectreviews", plain("404 page not found", status=404))]

    assert doctor(*PLACED).rows["cluster"].finding.endswith("Kubernetes v1.36.0")


@pytest.mark.usefixtures("admin")
def test_a_context_can_be_chosen(api: KubernetesApi) -> None:
    assert doctor(*PLACED, "--context", "test").exit_code == 0
    red = doctor(*PLACED, "--context", "prod").only_red()
    assert red.fix == "Choose with --context among: test."


# What the namespace holds.


@pytest.mark.usefixtures("admin")
def test_a_namespace_that_is_not_there_ends_what_is_in_it() -> None:
    told = doctor(*PLACED, "--namespace", "nowhere")

    assert told.only_red().finding == "The cluster has no namespace nowhere."
    assert "service account" not in told.rows
    assert told.rows["trainer nodes"].state == "ok"


@pytest.mark.usefixtures("admin")
def test_service_accounts_that_are_missing_are_told(api: KubernetesApi) -> None:
    drop(api, "serviceaccounts")

    told = doctor(*PLACED)

    assert "kubeflow has no repot-runner" in told.only_red().finding
    assert told.rows["worker account"].state == "warning"
    assert "kubectl apply -k manifests/overlays/" in told.rows["service account"].fix
    assert "rights of a run" not in told.rows


@pytest.mark.usefixtures("admin")
def test_kfps_own_account_takes_the_place_of_a_missing_one(api: KubernetesApi) -> None:
    drop(api, "serviceaccounts")
    put(api, "ServiceAccount", "pipeline-runner")
    api.rules.grant(
        f"system:serviceaccount:{NAMESPACE}:pipeline-runner", anything(), namespace=NAMESPACE
    )

    told = doctor(*PLACED)

    assert told.exit_code == 0
    assert "runs get KFP's own pipeline-runner" in told.rows["service account"].finding
    assert told.rows["rights of a run"].finding.startswith("pipeline-runner may get")
    assert (
        "no pipeline-walker"
        in doctor(*PLACED, "--service-account", "pipeline-walker").only_red().finding
    )


@pytest.mark.usefixtures("admin")
def test_rights_that_the_account_lacks_are_named(api: KubernetesApi) -> None:
    api.rules.grants.clear()
    api.rules.grant(RUNNER, role("get", "configmaps", "pods/log"), namespace=NAMESPACE)
    api.rules.grant(
        RUNNER, role("create get list watch", "jobs", group="batch"), namespace="elsewhere"
    )

    told = doctor(*PLACED)

    assert told.exit_code == 1
    assert told.rows["rights of a run"].finding == (
        "repot-runner must also be allowed to get/list/watch pods, create/patch workflowtaskresults.argoproj.io."
    )
    assert told.rows["rights for a Job"].finding == (
        "repot-runner must also be allowed to create/get/list/watch/delete jobs.batch, create/get/delete services, "
        "list events."
    )


def test_rights_are_asked_for_the_account_not_for_who_asks(
    api: KubernetesApi, use: Callable[..., None]
) -> None:
    use(token="of-somebody")
    let_in(
        api,
        "somebody",
        "of-somebody",
        ("get list", "*"),
        ("get", "services/proxy"),
        ("impersonate", "serviceaccounts"),
    )

    assert doctor(*PLACED).exit_code == 0
    api.rules.grants = [grant for grant in api.rules.grants if grant.user != RUNNER]
    assert doctor(*PLACED).exit_code == 1


def test_without_the_right_to_impersonate_it_says_who_can_tell(
    api: KubernetesApi, use: Callable[..., None]
) -> None:
    use(token="of-somebody")
    let_in(api, "somebody", "of-somebody", ("get list", "*"), ("get", "services/proxy"))

    told = doctor(*PLACED)

    assert told.exit_code == 0
    assert told.rows["rights of a run"].state == "warning"
    assert (
        f"kubectl auth can-i get configmaps -n kubeflow --as {RUNNER}"
        in told.rows["rights of a run"].fix
    )


def test_a_pod_that_runs_as_the_account_asks_for_itself(
    api: KubernetesApi, use: Callable[..., None]
) -> None:
    use(token="of-the-pod")
    let_in(api, RUNNER, "of-the-pod", ("get list", "*"), ("get", "services/proxy"))

    assert doctor(*PLACED).rows["rights of a run"].state == "ok"


def test_what_one_may_not_see_is_no_problem_of_the_cluster(
    api: KubernetesApi, use: Callable[..., None]
) -> None:
    use(token="of-somebody")
    let_in(api, "somebody", "of-somebody", ("get", "services/proxy"))

    told = doctor(*PLACED)

    assert told.exit_code == 0
    unseen = {
        "namespace",
        "service account",
        "worker account",
        "pods' storage",
        "kfp-launcher",
        "secrets",
        "quota",
    }
    assert {name for name, row in told.rows.items() if row.state == "warning"} == unseen | {
        "trainer nodes"
    }
    assert 'User "somebody" cannot list resource "nodes"' in told.rows["trainer nodes"].finding
    assert "Ask for the right to list nodes and pods" in told.rows["trainer nodes"].fix


@pytest.mark.usefixtures("admin")
def test_kfp_launcher_and_its_secret_are_looked_at_without_reading_the_secret(
    api: KubernetesApi,
) -> None:
    providers = "s3: {default: {credentials: {secretRef: {secretName: keys}}}}"
    launcher = {"defaultPipelineRoot": "s3://bucket/kfp", "providers": providers}
    put(api, "ConfigMap", "kfp-launcher", data=launcher)

    told = doctor(*PLACED)
    assert told.rows["secrets"].finding == "kubeflow has no keys (named by kfp-launcher)."
    # KFP's launcher reads it in the name of the run.
    assert "get secrets keys" in told.rows["rights of a run"].finding

    put(api, "Secret", "keys", stringData={"accesskey": "s3cret"})
    told = doctor(*PLACED)
    assert told.rows["secrets"].finding == "keys in kubeflow; what is in them was not read"
    assert (
        told.rows["kfp-launcher"].finding
        == "artifacts go to s3://bucket/kfp, with the keys in keys"
    )


@pytest.mark.usefixtures("admin")
def test_a_secret_to_pull_images_with_must_be_there(api: KubernetesApi) -> None:
    put(api, "ServiceAccount", "repot-runner", imagePullSecrets=[{"name": "registry"}])

    assert doctor(*PLACED).only_red().finding == "kubeflow has no registry (named by repot-runner)."


@pytest.mark.usefixtures("admin")
def test_placeholders_of_the_manifests_are_told(api: KubernetesApi) -> None:
    put(api, "ConfigMap", "kfp-launcher", data={"defaultPipelineRoot": "gs://your-bucket/kfp"})
    annotations = {"iam.gke.io/gcp-service-account": "repot@your-project.iam.gserviceaccount.com"}
    put(api, "ServiceAccount", "repot-runner", annotations=annotations)

    told = doctor(*PLACED)

    assert told.exit_code == 1
    assert [told.rows[name].state for name in ("kfp-launcher", "service account")] == [
        "problem",
        "problem",
    ]
    assert "settings.yaml" in told.rows["kfp-launcher"].fix


# How the pods get at the storage.


@pytest.mark.usefixtures("admin")
def test_pods_get_at_gcs_by_identity_or_by_secret(api: KubernetesApi, gcs: str) -> None:
    by_identity = doctor(*PLACED, "--storage-uri", gcs)
    put(api, "ServiceAccount", "repot-runner")
    by_nothing = doctor(*PLACED, "--storage-uri", gcs)
    put(api, "Secret", "repot-google-key", stringData={"key.json": "s3cret"})
    by_secret = doctor(*PLACED, "--storage-uri", gcs)

    assert by_identity.rows["access"].finding == f"{gcs} can be written, read and listed"
    assert "STORAGE_EMULATOR_HOST" in by_identity.rows["credentials"].finding
    assert by_identity.rows["pods' storage"].finding.startswith(
        "by workload identity, as repot@our-project"
    )
    assert by_nothing.rows["pods' storage"].state == "warning"
    assert "--from-file key.json" in by_nothing.rows["pods' storage"].fix
    assert (
        by_secret.rows["pods' storage"].finding
        == "with the key in the secret repot-google-key, which was not read"
    )
    assert [told.exit_code for told in (by_identity, by_nothing, by_secret)] == [0, 0, 0]


@pytest.mark.usefixtures("gcs")
def test_a_bucket_that_is_not_there_is_one_line() -> None:
    red = doctor("--storage-uri", "gs://no-such-bucket/here").only_red()

    assert "there is no bucket gs://no-such-bucket" in red.finding
    assert red.fix == "Create it, or correct the name."


def test_a_store_that_does_not_answer_is_one_line_within_seconds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(storage_access, "_SECONDS", 0.5)
    # What is left behind ends soon after.
    monkeypatch.setattr("repot.storage.gcs.client.FIRST_DEADLINE_SECONDS", 0.6)
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:9")

    assert (
        "is not answered for within 0.5 s"
        in doctor("--storage-uri", "gs://bucket/here").only_red().finding
    )


# Kubeflow Pipelines.


def test_a_server_is_asked_for_its_version_and_to_let_one_in(
    kfp: KfpApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    kfp.token = "s3cret"
    refused = doctor("--host", kfp.address).only_red()
    monkeypatch.setenv("KF_PIPELINES_TOKEN", "s3cret")
    let_in_told = doctor("--host", kfp.address)

    assert "(401)" in refused.finding
    assert "--token-file" in refused.fix
    assert (
        let_in_told.rows["sign-in"].finding
        == "may list the experiments, with the token in KF_PIPELINES_TOKEN"
    )
    assert "s3cret" not in str(let_in_told)


def test_a_server_whose_health_is_public_and_whose_runs_are_not(kfp: KfpApi) -> None:
    # From the first answer on, which is that to the question about health.
    kfp.before = lambda *_: setattr(kfp, "token", "s3cret")

    told = doctor("--host", kfp.address)

    assert told.rows["server"].state == "ok"
    assert "(401)" in told.only_red().finding


@pytest.mark.parametrize(
    ("tag", "state"),
    [("2.13.9", "problem"), ("2.14.0", "ok"), ("v2.17.1", "ok"), ("unknown", "warning")],
)
def test_servers_before_2_14_are_red(kfp: KfpApi, tag: str, state: str) -> None:
    kfp.tag = tag

    assert doctor("--host", kfp.address).rows["server"].state == state


def test_a_wrong_endpoint_is_one_line(kfp: KfpApi, api: KubernetesApi, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(ADMIN_TOKEN)
    kfp.answers = [("GET", "/healthz", web_page())]

    assert "answers with a web page" in doctor("--host", kfp.address).only_red().finding
    assert (
        "404"
        in doctor("--host", api.address, "--token-file", tmp_path / "token").only_red().finding
    )


def test_several_users_want_a_namespace(kfp: KfpApi) -> None:
    kfp.store.is_multi_user = True

    assert doctor("--host", kfp.address).only_red().fix == "Give --namespace."
    kfp.denied = ("alice",)
    told = doctor("--host", kfp.address, "--namespace", "alice")
    assert "(403)" in told.rows["sign-in"].finding


@pytest.mark.usefixtures("admin")
def test_a_cluster_without_kubeflow_pipelines_is_one_line(api: KubernetesApi) -> None:
    api.services.clear()

    assert 'services "ml-pipeline" not found' in doctor(*PLACED).only_red().finding


# The trainer's nodes.


@pytest.mark.usefixtures("admin")
@pytest.mark.parametrize(
    ("given", "finding", "fix"),
    [
        (
            ("--node-selector", '{"cloud.google.com/gke-accelerator": "nvidia-a100"}'),
            "nvidia-a100; there is cloud.google.com/gke-accelerator=nvidia-l4",
            "Correct the selector",
        ),
        (
            ("--node-selector", '{"gpu": "yes"}'),
            "none of 3 nodes has a label gpu",
            "kubectl get nodes --show-labels",
        ),
        (
            (*PLACED, "--accelerator-type", "amd.com/gpu"),
            "No node offers amd.com/gpu; what nodes offer of that sort: nvidia.com/gpu",
            "--accelerator-count 0",
        ),
        (
            ("--node-selector", '{"kubernetes.io/hostname": "cpu-1"}'),
            "The nodes that match kubernetes.io/hostname=cpu-1 have no nvidia.com/gpu; gpu-1, gpu-2 would",
            "Correct the selector",
        ),
        (
            (*PLACED, "--accelerator-count", "8"),
            "No node has 8 nvidia.com/gpu; the largest of 2 that match has 4",
            "Ask for 4 at most",
        ),
    ],
)
def test_a_trainer_that_fits_nowhere_is_one_line(
    given: tuple[str, ...], finding: str, fix: str
) -> None:
    red = doctor(*given).only_red()

    assert finding in red.finding
    assert fix in red.fix


@pytest.mark.usefixtures("admin")
def test_where_nodes_come_and_go_it_may_fit_later(api: KubernetesApi) -> None:
    put(
        api,
        "ConfigMap",
        "cluster-autoscaler-status",
        namespace="kube-system",
        data={"status": "Healthy"},
    )

    told = doctor("--node-selector", '{"gpu": "yes"}')

    assert told.exit_code == 0
    assert "at the moment" in told.rows["trainer nodes"].finding
    assert "autoscaler" in told.rows["trainer nodes"].fix


@pytest.mark.usefixtures("admin")
def test_taints_that_no_toleration_covers_are_told_with_the_toleration(api: KubernetesApi) -> None:
    spot = {"key": "spot", "value": "true", "effect": "NoSchedule"}
    for name in ("gpu-1", "gpu-2"):
        api.store.put(make_node(name, labels=L4, gpus=4, taints=[GPU_TAINT, spot]))

    red = doctor(*PLACED).only_red()
    assert "gpu-1 has spot=true:NoSchedule" in red.finding
    given = red.fix.partition("trainer_tolerations=")[2].removesuffix(".")
    assert doctor(*SELECTOR, "--tolerations", given).exit_code == 0


@pytest.mark.usefixtures("admin")
def test_the_accelerators_own_taint_is_a_warning() -> None:
    told = doctor(*SELECTOR)

    assert told.exit_code == 0
    assert (
        "nvidia.com/gpu=present:NoSchedule, which some clusters (GKE) tolerate"
        in told.rows["trainer nodes"].finding
    )


@pytest.mark.usefixtures("admin")
def test_what_pods_hold_is_not_free(api: KubernetesApi) -> None:
    api.store.put(make_pod("busy", node="gpu-1", gpus=3))
    api.store.put(make_pod("done", node="gpu-2", gpus=4, phase="Succeeded"))
    api.store.put(make_pod("here", node="gpu-2", gpus=2, namespace=NAMESPACE))

    enough = doctor(*PLACED, "--accelerator-count", "2").rows["trainer nodes"]
    too_few = doctor(*PLACED, "--accelerator-count", "3").rows["trainer nodes"]

    assert "8 nvidia.com/gpu, 3 of them free, at most 2 on one node; 2 asked for" in enough.finding
    assert (enough.state, too_few.state) == ("ok", "warning")
    assert "will wait" in too_few.fix


def test_without_the_right_to_see_pods_what_is_free_is_not_known(
    api: KubernetesApi, use: Callable[..., None]
) -> None:
    use(token="of-somebody")
    let_in(api, "somebody", "of-somebody", ("get list", "nodes"), ("get", "services/proxy"))

    found = doctor(*PLACED).rows["trainer nodes"]

    assert found.state == "warning"
    assert "8 nvidia.com/gpu; how many are free is not known" in found.finding


@pytest.mark.usefixtures("admin")
def test_nodes_that_take_no_pods_are_told(api: KubernetesApi) -> None:
    api.store.put(make_node("gpu-1", labels=L4, gpus=4, is_ready=False))
    api.store.put(make_node("gpu-2", labels=L4, gpus=4, is_cordoned=True))

    assert "gpu-1, gpu-2 not ready or cordoned" in doctor(*PLACED).only_red().finding


@pytest.mark.usefixtures("admin")
def test_no_accelerator_is_fine_too(api: KubernetesApi) -> None:
    drop(api, "nodes")
    api.store.put(make_node("cpu-1"))

    told = doctor("--accelerator-count", "0")

    assert told.exit_code == 0
    assert told.rows["trainer nodes"].finding == "1 can run the trainer; no accelerator asked for"
    assert told.rows["quota"].state == "not checked"
    drop(api, "nodes")
    assert doctor("--accelerator-count", "0").only_red().finding == "The cluster has no nodes."


@pytest.mark.usefixtures("admin")
def test_a_large_cluster_is_read_page_after_page(
    api: KubernetesApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster_module, "_PAGE_SIZE", 2)
    for index in range(7):
        api.store.put(make_pod(f"pod-{index}", node="gpu-2", gpus=0 if index % 2 else 1))
    api.store.put(make_node("gpu-3", labels=L4, gpus=4))

    assert (
        "3 for cloud.google.com/gke-accelerator=nvidia-l4 with 12 nvidia.com/gpu, 8 of them free"
        in (doctor(*PLACED).rows["trainer nodes"].finding)
    )


@pytest.mark.usefixtures("admin")
def test_a_quota_bounds_what_a_run_may_have() -> None:
    for count, state in ((4, "ok"), (9, "problem")):
        assert doctor(*PLACED, "--accelerator-count", str(count)).rows["quota"].state == state


@pytest.mark.usefixtures("admin")
def test_images_that_lie_on_a_node_are_known(api: KubernetesApi) -> None:
    unknown = doctor(*PLACED).rows["trainer image"]
    image = unknown.finding.partition(": ")[0]
    api.store.put(make_node("gpu-1", labels=L4, gpus=4, images=(image, "busybox:1")))

    known = doctor(*PLACED).rows["trainer image"]

    assert "whether nodes may pull it cannot be known" in unknown.finding
    assert known.finding == f"{image} lies on 1 of 3 nodes already"


def anything() -> dict[str, Any]:
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
    **facts: Any,
) -> None:
    metadata = {"name": name} | ({"annotations": annotations} if annotations else {})
    api.store.put(
        {"apiVersion": "v1", "kind": kind, "metadata": metadata, **facts}, namespace=namespace
    )
