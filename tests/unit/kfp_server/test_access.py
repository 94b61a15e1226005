from dataclasses import replace
from pathlib import Path

import pytest

from repot.errors import UsageError
from repot_pipelines.kfp_server.access import Access, ConnectionOptions, resolve_access

NO_OPTIONS = ConnectionOptions()
WITH_HOST = ConnectionOptions(host="http://this")


@pytest.fixture
def secret_path(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_text("s3cret\n")
    return path


def test_no_options_and_no_environment_uses_kubeconfig() -> None:
    assert resolve_access(NO_OPTIONS, {}) == Access()


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("https://kfp.example.com/pipeline/", "https://kfp.example.com/pipeline"),
        ("kfp.example.com", "https://kfp.example.com"),
        ("localhost:8080", "http://localhost:8080"),
        ("127.0.0.1:8888", "http://127.0.0.1:8888"),
    ],
)
def test_host_gets_a_scheme_and_loses_the_trailing_slash(host: str, url: str) -> None:
    assert resolve_access(ConnectionOptions(host=host), {}).host == url
    assert resolve_access(NO_OPTIONS, {"KF_PIPELINES_ENDPOINT": host}).host == url


def test_options_override_the_environment(secret_path: Path) -> None:
    environment = {
        "KF_PIPELINES_ENDPOINT": "other",
        "KF_PIPELINES_TOKEN": "t",
        "KF_PIPELINES_IAP_OAUTH2_CLIENT_ID": "id",
    }

    access = resolve_access(replace(WITH_HOST, token_file=secret_path), environment)

    assert access == Access(host="http://this", token_path=secret_path)


@pytest.mark.parametrize(
    ("variable", "value", "field"),
    [
        ("KF_PIPELINES_TOKEN", "t", "token"),
        ("KF_PIPELINES_COOKIE", "a=b", "cookie"),
        ("KF_PIPELINES_IAP_OAUTH2_CLIENT_ID", "id", "iap_client_id"),
    ],
)
def test_environment_credentials_apply_only_with_a_host(
    variable: str, value: str, field: str
) -> None:
    with_host = resolve_access(WITH_HOST, {variable: value})

    assert str(getattr(with_host, field)) == value
    # kubeconfig has its own credentials.
    assert resolve_access(NO_OPTIONS, {variable: value}) == Access()


def test_token_path_variable_applies_only_with_a_host(secret_path: Path) -> None:
    variables = {"KF_PIPELINES_SA_TOKEN_PATH": str(secret_path)}

    assert resolve_access(WITH_HOST, variables).token_path == secret_path
    assert resolve_access(NO_OPTIONS, variables) == Access()


def test_credential_options_require_a_host(secret_path: Path) -> None:
    for options in (
        ConnectionOptions(token_file=secret_path),
        ConnectionOptions(cookie_file=secret_path),
        ConnectionOptions(iap_client_id="id"),
    ):
        with pytest.raises(UsageError, match="must come with --host"):
            resolve_access(options, {})


def test_cookie_is_read_from_its_file_and_hidden_in_repr(secret_path: Path) -> None:
    access = resolve_access(replace(WITH_HOST, cookie_file=secret_path), {})

    assert access.cookie == "s3cret"
    assert "s3cret" not in repr(access)


def test_host_in_a_pod_is_the_cluster_internal_service() -> None:
    environment = {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}
    other_namespace = ConnectionOptions(kfp_namespace="kfp")

    host = resolve_access(NO_OPTIONS, environment).host

    assert host == "http://ml-pipeline.kubeflow.svc.cluster.local:8888"
    assert resolve_access(other_namespace, environment).host.startswith(
        "http://ml-pipeline.kfp.svc"
    )
    assert resolve_access(ConnectionOptions(kube_context="kind"), environment).host == ""
    with_file = {**environment, "KUBECONFIG": "/builds/kubeconfig"}
    assert resolve_access(NO_OPTIONS, with_file).host == ""
    without_file = {**environment, "KUBECONFIG": "/dev/null"}
    assert resolve_access(NO_OPTIONS, without_file).host == host


def test_certificate_authorities_come_from_the_option_or_the_environment(tmp_path: Path) -> None:
    option, variable = tmp_path / "option.pem", tmp_path / "variable.pem"
    for path in (option, variable):
        path.write_text("certificates")
    environment = {"SSL_CERT_FILE": str(variable)}

    assert resolve_access(WITH_HOST, environment).ca_path == variable
    assert resolve_access(replace(WITH_HOST, ca_file=option), environment).ca_path == option
    assert resolve_access(WITH_HOST, {"SSL_CERT_FILE": str(tmp_path)}).ca_path is None
    # kubeconfig has its own.
    assert resolve_access(NO_OPTIONS, environment).ca_path is None


def test_context_ignores_address_and_credentials_in_the_environment() -> None:
    environment = {"KF_PIPELINES_ENDPOINT": "https://production", "KF_PIPELINES_TOKEN": "t"}

    access = resolve_access(ConnectionOptions(kube_context="staging"), environment)

    assert access == Access(kube_context="staging")


@pytest.mark.parametrize("text", ['{\n  "private_key": "s3cret"\n}', "s3cret\nmore", "s3crét"])
@pytest.mark.parametrize("is_token", [True, False])
def test_malformed_credential_file_is_rejected_without_quoting_it(
    is_token: bool, text: str, tmp_path: Path
) -> None:
    path = tmp_path / "key.json"
    path.write_text(text, encoding="utf-8")

    with pytest.raises(UsageError) as caught:
        resolve_access(
            replace(WITH_HOST, token_file=path)
            if is_token
            else replace(WITH_HOST, cookie_file=path),
            {},
        )

    (problem,) = caught.value.problems
    assert str(path) in problem
    assert "one line of printable ASCII" in problem
    assert "s3cr" not in problem


@pytest.mark.parametrize("variable", ["KF_PIPELINES_TOKEN", "KF_PIPELINES_COOKIE"])
def test_malformed_credential_variable_is_rejected_without_quoting_it(variable: str) -> None:
    with pytest.raises(UsageError, match=rf"{variable} must be one line") as caught:
        resolve_access(WITH_HOST, {variable: "s3cret\nmore"})

    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("host", ["http://this", ""])
def test_every_unreadable_file_is_listed(host: str, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    options = ConnectionOptions(
        host=host,
        token_file=tmp_path / "none",
        cookie_file=tmp_path / "empty",
        ca_file=tmp_path,
    )

    with pytest.raises(UsageError) as caught:
        resolve_access(options, {})

    names = ["--token-file", "--cookie-file", "--ca-file"]
    assert [problem.split()[0] for problem in caught.value.problems] == (
        names if host else [*names, "Credentials"]
    )
