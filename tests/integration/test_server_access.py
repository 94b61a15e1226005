"""Server address and credentials of every command, and the errors when a connection fails."""

import base64
import http.server
import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from repot_pipelines.kfp_server import server as server_module
from tests.integration.kfp_api.answers import plain, web_page
from tests.integration.kfp_api.command_line import CommandResult, run_repot
from tests.integration.kfp_api.scripted_runs import FINISHED, TRAINING, Stage, gate_log, script_runs
from tests.integration.kfp_api.server import KfpApi

LOCATIONS = ("gs://pictures/flowers", "--storage-uri", "gs://repot/here")
PROXY = "/api/v1/namespaces/kubeflow/services/ml-pipeline:http/proxy"
ROOT = Path(__file__).parents[2]


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[KfpApi]:
    for name in [name for name in os.environ if name.startswith("KF_")]:
        monkeypatch.delenv(name)
    with KfpApi() as server:
        yield server


def submit(host: str, *arguments: str | Path) -> CommandResult:
    return run_repot("submit", *LOCATIONS, "--host", host, *arguments)


def test_token_from_file_or_environment_is_accepted(
    api: KfpApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.token = "s3cret"
    path = tmp_path / "token"
    path.write_text("s3cret\n")

    assert submit(api.address, "--token-file", path).exit_code == 0
    monkeypatch.setenv("KF_PIPELINES_SA_TOKEN_PATH", str(path))
    assert submit(api.address).exit_code == 0
    monkeypatch.setenv("KF_PIPELINES_SA_TOKEN_PATH", "")
    monkeypatch.setenv("KF_PIPELINES_TOKEN", "s3cret")
    assert submit(api.address).exit_code == 0


def test_renewed_token_file_is_read_again_while_following(api: KfpApi, tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("first")
    api.token = "first"
    script_runs(
        api,
        [
            Stage("RUNNING", TRAINING),
            Stage("RUNNING", TRAINING),
            Stage("SUCCEEDED", FINISHED, gate_log("promote")),
        ],
    )
    advance = api.before

    def renew(number: int, method: str, target: str) -> None:
        advance(number, method, target)
        if sum("/runs/" in seen for _, seen in api.requests) == 2:
            path.write_text("second")
            api.token = "second"

    api.before = renew

    result = submit(api.address, "--token-file", path, "--wait", "--poll-seconds", "0.05")

    assert result.exit_code == 0, result.errors


def test_expired_token_while_following_reports_that_the_run_continues(
    api: KfpApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KF_PIPELINES_TOKEN", "first")
    api.token = "first"
    script_runs(api, [Stage("RUNNING", TRAINING)])
    advance = api.before

    def expire(number: int, method: str, target: str) -> None:
        advance(number, method, target)
        if sum("/runs/" in seen for _, seen in api.requests) > 1:
            api.token = "second"

    api.before = expire

    result = submit(api.address, "--wait", "--poll-seconds", "0.05")

    assert result.exit_code == 1
    assert "(401)" in result.errors
    assert "The run itself continues; follow it again with `repot submit --attach" in result.errors
    assert "first" not in result.errors


def test_session_cookie_is_accepted(
    api: KfpApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.cookie = "authservice_session=abc"
    (tmp_path / "cookie").write_text("authservice_session=abc\n")

    assert submit(api.address, "--cookie-file", tmp_path / "cookie").exit_code == 0
    monkeypatch.setenv("KF_PIPELINES_COOKIE", "authservice_session=old")
    result = submit(api.address)
    assert result.exit_code == 1
    assert "login page" in result.errors


def test_rejected_token_is_one_line_of_error_without_the_token(
    api: KfpApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.token = "fresh"
    monkeypatch.setenv("KF_PIPELINES_TOKEN", "stale-and-secret")

    result = submit(api.address)

    assert result.exit_code == 1
    assert len(result.errors.splitlines()) == 1
    assert "does not accept the credentials (401)" in result.errors
    assert "stale" not in result.errors
    assert api.changes == []


def test_missing_permission_is_reported_and_nothing_is_created(api: KfpApi) -> None:
    api.store.is_multi_user = True
    api.denied = ("alice",)

    result = submit(api.address, "--namespace", "alice")

    assert result.exit_code == 1
    assert "these credentials lack the permission (403)" in result.errors
    assert api.store.pipelines == {}


def test_multi_user_server_requires_a_namespace(api: KfpApi) -> None:
    api.store.is_multi_user = True

    assert submit(api.address).exit_code == 2
    assert submit(api.address, "--namespace", "alice").exit_code == 0

    (pipeline,), (experiment,) = api.store.pipelines.values(), api.store.experiments.values()
    assert pipeline["namespace"] == experiment["namespace"] == "alice"


@pytest.mark.parametrize("is_ui", [False, True])
def test_link_refers_to_the_ui_or_a_port_forward(api: KfpApi, is_ui: bool) -> None:
    api.is_ui = is_ui

    output = submit(api.address).output

    assert (f"link     {api.address}/#/runs/details/" in output) == is_ui
    assert ("kubectl port-forward" in output) != is_ui
    assert (
        "link     https://ui.example.com/#/runs/details/"
        in submit(api.address, "--ui-host", "ui.example.com").output
    )


def test_web_page_as_health_answer_is_reported(api: KfpApi) -> None:
    api.answers = [("GET", "/healthz", web_page())]

    result = submit(api.address)

    assert result.exit_code == 1
    assert "responds with a web page" in result.errors


def test_login_page_in_the_middle_is_reported_and_nothing_is_created(api: KfpApi) -> None:
    api.answers = [("GET", "/pipelines", web_page())]

    result = submit(api.address)

    assert result.exit_code == 1
    assert "Cannot look up the pipeline" in result.errors
    assert api.changes == []


@pytest.mark.parametrize(
    ("tag", "is_old"),
    [("2.15.2", True), ("1.8.22", True), ("2.16.0", False), ("v2.17.0", False), ("unknown", False)],
)
def test_servers_before_2_16_are_rejected(api: KfpApi, tag: str, is_old: bool) -> None:
    api.tag = tag

    result = submit(api.address)

    assert result.exit_code == int(is_old), result.errors
    assert (f"is Kubeflow Pipelines {tag}; repot needs 2.16 or later" in result.errors) == is_old


def test_server_without_the_api_is_reported(api: KfpApi) -> None:
    api.answers = [("GET", "/healthz", plain("404 page not found", status=404))]

    result = submit(api.address)

    assert result.exit_code == 1
    assert "responded with 404" in result.errors
    assert "repot needs Kubeflow Pipelines 2.16 or later" in result.errors


def test_unreachable_server_is_reported_quickly() -> None:
    started = time.monotonic()

    refused, unknown = submit("http://127.0.0.1:9"), submit("http://no-such-host.invalid")

    assert (refused.exit_code, unknown.exit_code) == (1, 1)
    assert "connection refused" in refused.errors
    assert "does not resolve" in unknown.errors
    assert time.monotonic() - started < 10


def test_silent_server_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "_CONNECT_TIMEOUT_SECONDS", (0.2, 0.2))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        result = submit(f"http://127.0.0.1:{silent.getsockname()[1]}")

    assert result.exit_code == 1
    assert "does not respond in time" in result.errors


def test_https_to_an_http_server_is_a_tls_error(api: KfpApi) -> None:
    result = submit(api.address.replace("http://", "https://"))

    assert result.exit_code == 1
    assert "the TLS connection to" in result.errors


def test_without_a_host_requests_go_through_the_kubernetes_api(api: KfpApi, tmp_path: Path) -> None:
    api.prefix, api.token = PROXY, "kubeconfig-token"
    path = write_kubeconfig(tmp_path, api.address, token="kubeconfig-token")

    result = run_in_subprocess("schedule", "list", KUBECONFIG=str(path))

    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("NAME")
    assert all(target.startswith("/apis/v2beta1/") for _, target in api.requests)


def test_cluster_without_kubeflow_pipelines_is_reported(api: KfpApi, tmp_path: Path) -> None:
    status = {
        "kind": "Status",
        "message": 'services "ml-pipeline" not found',
        "reason": "NotFound",
        "code": 404,
    }
    api.prefix = PROXY
    api.answers = [("GET", "/healthz", plain(json.dumps(status), status=404))]

    result = run_in_subprocess(
        "schedule", "list", KUBECONFIG=str(write_kubeconfig(tmp_path, api.address, token="x"))
    )

    assert result.returncode == 1
    assert 'services "ml-pipeline" not found' in result.stderr


def test_no_host_and_no_kubeconfig_is_reported(tmp_path: Path) -> None:
    missing = run_in_subprocess("schedule", "list", KUBECONFIG=str(tmp_path / "none"))
    path = write_kubeconfig(tmp_path, "http://127.0.0.1:9", token="x")
    other_context = run_in_subprocess("schedule", "list", "--context", "prod", KUBECONFIG=str(path))

    assert (missing.returncode, other_context.returncode) == (1, 1)
    assert "--host is not set" in missing.stderr
    assert "prod" in other_context.stderr
    assert len(missing.stderr.splitlines()) == len(other_context.stderr.splitlines()) == 1


def test_iap_client_id_option_gets_an_identity_token(
    api: KfpApi, token_endpoint: "TokenEndpoint", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.token = token_endpoint.token
    monkeypatch.setenv(
        "GOOGLE_APPLICATION_CREDENTIALS",
        str(write_service_account(tmp_path, token_endpoint.address)),
    )

    result = submit(api.address, "--iap-client-id", "client.apps.googleusercontent.com")

    assert result.exit_code == 0, result.errors
    assert token_endpoint.audiences == ["client.apps.googleusercontent.com"]


def test_iap_client_id_from_the_environment_gets_an_identity_token(
    api: KfpApi, token_endpoint: "TokenEndpoint", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # kfp.Client itself reads the variable too, but supports only key files and never renews tokens.
    api.token = token_endpoint.token
    monkeypatch.setenv(
        "GOOGLE_APPLICATION_CREDENTIALS",
        str(write_service_account(tmp_path, token_endpoint.address)),
    )
    monkeypatch.setenv("KF_PIPELINES_IAP_OAUTH2_CLIENT_ID", "client-of-environment")
    monkeypatch.setenv("KF_PIPELINES_ENDPOINT", api.address)

    result = run_repot("schedule", "list")

    assert result.exit_code == 0, result.errors
    assert token_endpoint.audiences == ["client-of-environment"]
    assert os.environ["KF_PIPELINES_IAP_OAUTH2_CLIENT_ID"] == "client-of-environment"


def test_token_file_overrides_the_iap_client_id_in_the_environment(
    api: KfpApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.token = "s3cret"
    (tmp_path / "token").write_text("s3cret\n")
    monkeypatch.setenv("KF_PIPELINES_IAP_OAUTH2_CLIENT_ID", "client-of-environment")

    result = run_repot(
        "schedule", "list", "--host", api.address, "--token-file", tmp_path / "token"
    )

    assert result.exit_code == 0, result.errors


def test_context_overrides_the_address_in_the_environment(api: KfpApi, tmp_path: Path) -> None:
    api.prefix, api.token = PROXY, "kubeconfig-token"
    path = write_kubeconfig(tmp_path, api.address, token="kubeconfig-token")
    (context,) = [each["name"] for each in yaml.safe_load(path.read_text())["contexts"]]

    result = run_in_subprocess(
        "schedule",
        "list",
        "--context",
        context,
        KUBECONFIG=str(path),
        KF_PIPELINES_ENDPOINT="http://127.0.0.1:9",
    )

    assert result.returncode == 0, result.stderr


def test_context_and_kubeconfig_win_over_the_cluster_of_a_pod(
    api: KfpApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # kfp.Client would use the service of the pod's own cluster, whatever it is given.
    api.prefix, api.token = PROXY, "kubeconfig-token"
    path = write_kubeconfig(tmp_path, api.address, token="kubeconfig-token")
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(path))
    for name in ("SERVICE_TOKEN_FILENAME", "SERVICE_CERT_FILENAME"):
        (tmp_path / name).write_text("of the pod")
        monkeypatch.setattr(f"kubernetes.config.incluster_config.{name}", str(tmp_path / name))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "9")

    by_context = run_repot("schedule", "list", "--context", "kind")
    monkeypatch.setenv("KUBECONFIG", str(path))
    by_file = run_repot("schedule", "list")

    assert by_context.exit_code == 0, by_context.errors
    assert by_file.exit_code == 0, by_file.errors
    assert os.environ["KUBERNETES_SERVICE_HOST"] == "127.0.0.1"


def test_missing_google_credentials_are_reported(
    api: KfpApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "none.json"))

    result = submit(api.address, "--iap-client-id", "client")

    assert result.exit_code == 1
    assert "Cannot get an identity token for the proxy" in result.errors
    assert api.requests == []


class TokenEndpoint:
    """A fake of Google's token endpoint that issues identity tokens for service accounts."""

    def __init__(self) -> None:
        endpoint = self
        header = "eyJhbGciOiJub25lIn0"
        payload = "eyJleHAiOjQxMDI0NDQ4MDB9"  # {"exp": 4102444800}
        self.token = f"{header}.{payload}."
        self.audiences: list[str] = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                form = urllib.parse.parse_qs(
                    self.rfile.read(int(self.headers["Content-Length"])).decode()
                )
                endpoint.audiences.append(_claims(form["assertion"][0])["target_audience"])
                body = json.dumps({"id_token": endpoint.token}).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}/token"


@pytest.fixture
def token_endpoint() -> Iterator[TokenEndpoint]:
    endpoint = TokenEndpoint()
    thread = threading.Thread(target=endpoint.server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield endpoint
    endpoint.server.shutdown()
    endpoint.server.server_close()
    thread.join()


def write_service_account(folder: Path, token_uri: str) -> Path:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    account = {
        "type": "service_account",
        "client_email": "robot@project.iam.gserviceaccount.com",
        "private_key_id": "1",
        "private_key": pem.decode(),
        "token_uri": token_uri,
    }
    path = folder / "robot.json"
    path.write_text(json.dumps(account))
    return path


def write_kubeconfig(folder: Path, address: str, *, token: str) -> Path:
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "kind",
        "clusters": [{"name": "kind", "cluster": {"server": address}}],
        "users": [{"name": "me", "user": {"token": token}}],
        "contexts": [{"name": "kind", "context": {"cluster": "kind", "user": "me"}}],
    }
    path = folder / "kubeconfig"
    path.write_text(yaml.safe_dump(config))
    return path


def run_in_subprocess(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `repot` in another process: the Kubernetes client reads KUBECONFIG on import."""
    program = (
        "from tests.integration.kfp_api import command_line\n"
        "from repot_pipelines import cli\n"
        "cli.main()"
    )
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("KF_")}
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**inherited, **environment},
        timeout=60,
    )


def _claims(assertion: str) -> dict[str, Any]:
    payload = assertion.split(".")[1]
    claims: dict[str, Any] = json.loads(
        base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4))
    )
    return claims
