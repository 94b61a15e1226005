from pathlib import Path
from typing import Any

import pytest

from repot.errors import UsageError
from repot_pipelines.kfp_server.access import Access, read_access

NOTHING: dict[str, Any] = {
    "host": None,
    "ui_host": None,
    "token_file": None,
    "cookie_file": None,
    "iap_client_id": None,
    "kfp_namespace": "kubeflow",
    "kube_context": None,
    "ca_file": None,
}


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_text("s3cret\n")
    return path


def test_nothing_given_takes_kubeconfig() -> None:
    assert read_access(NOTHING, {}) == Access()


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("https://kfp.example.com/pipeline/", "https://kfp.example.com/pipeline"),
        ("kfp.example.com", "https://kfp.example.com"),
        ("localhost:8080", "http://localhost:8080"),
        ("127.0.0.1:8888", "http://127.0.0.1:8888"),
    ],
)
def test_a_host_gets_a_scheme_and_no_slash_at_its_end(host: str, address: str) -> None:
    assert read_access({**NOTHING, "host": host}, {}).host == address
    assert read_access(NOTHING, {"KF_PIPELINES_ENDPOINT": host}).host == address


def test_flags_go_before_the_environment(secret: Path) -> None:
    environment = {
        "KF_PIPELINES_ENDPOINT": "other",
        "KF_PIPELINES_TOKEN": "t",
        "KF_PIPELINES_IAP_OAUTH2_CLIENT_ID": "id",
    }

    access = read_access({**NOTHING, "host": "http://this", "token_file": secret}, environment)

    assert (access.host, access.token_path, access.token, access.iap_client_id) == (
        "http://this",
        secret,
        "",
        "",
    )


@pytest.mark.parametrize(
    ("variable", "value", "field"),
    [
        ("KF_PIPELINES_TOKEN", "t", "token"),
        ("KF_PIPELINES_COOKIE", "a=b", "cookie"),
        ("KF_PIPELINES_IAP_OAUTH2_CLIENT_ID", "id", "iap_client_id"),
    ],
)
def test_the_environment_offers_every_way_in_to_a_host(
    variable: str, value: str, field: str
) -> None:
    with_host = read_access({**NOTHING, "host": "http://this"}, {variable: value})

    assert str(getattr(with_host, field)) == value
    # Kubeconfig brings its own.
    assert read_access(NOTHING, {variable: value}) == Access()


def test_the_environment_offers_the_file_of_a_token_to_a_host(secret: Path) -> None:
    variables = {"KF_PIPELINES_SA_TOKEN_PATH": str(secret)}

    assert read_access({**NOTHING, "host": "http://this"}, variables).token_path == secret
    assert read_access(NOTHING, variables) == Access()


def test_given_credentials_want_a_host(secret: Path) -> None:
    for given in ({"token_file": secret}, {"cookie_file": secret}, {"iap_client_id": "id"}):
        with pytest.raises(UsageError, match="must come with --host"):
            read_access({**NOTHING, **given}, {})


def test_a_cookie_file_is_read(secret: Path) -> None:
    access = read_access({**NOTHING, "host": "http://this", "cookie_file": secret}, {})

    assert access.cookie == "s3cret"
    assert "s3cret" not in repr(access)


def test_in_a_pod_the_service_is_the_host() -> None:
    environment = {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}

    assert (
        read_access(NOTHING, environment).host
        == "http://ml-pipeline.kubeflow.svc.cluster.local:8888"
    )
    assert read_access({**NOTHING, "kfp_namespace": "kfp"}, environment).host.startswith(
        "http://ml-pipeline.kfp.svc"
    )
    assert read_access({**NOTHING, "kube_context": "kind"}, environment).host == ""


def test_a_context_is_not_overruled_by_the_environment() -> None:
    environment = {"KF_PIPELINES_ENDPOINT": "https://production", "KF_PIPELINES_TOKEN": "t"}

    assert read_access({**NOTHING, "kube_context": "staging"}, environment) == Access(
        kube_context="staging"
    )


@pytest.mark.parametrize("text", ['{\n  "private_key": "s3cret"\n}', "s3cret\nmore", "s3crét"])
@pytest.mark.parametrize("option", ["token_file", "cookie_file"])
def test_what_fits_in_no_header_is_refused_and_not_shown(
    option: str, text: str, tmp_path: Path
) -> None:
    path = tmp_path / "key.json"
    path.write_text(text, encoding="utf-8")

    with pytest.raises(UsageError) as caught:
        read_access({**NOTHING, "host": "http://this", option: path}, {})

    (problem,) = caught.value.problems
    assert str(path) in problem
    assert "one line of printable ASCII" in problem
    assert "s3cr" not in problem


@pytest.mark.parametrize("variable", ["KF_PIPELINES_TOKEN", "KF_PIPELINES_COOKIE"])
def test_a_variable_that_fits_in_no_header_is_refused_and_not_shown(variable: str) -> None:
    with pytest.raises(UsageError, match=rf"{variable} must be one line") as caught:
        read_access({**NOTHING, "host": "http://this"}, {variable: "s3cret\nmore"})

    assert "s3cret" not in str(caught.value)


def test_every_unreadable_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    given = {
        **NOTHING,
        "host": "http://this",
        "token_file": tmp_path / "none",
        "cookie_file": tmp_path / "empty",
        "ca_file": tmp_path,
    }

    with pytest.raises(UsageError) as caught:
        read_access(given, {})

    assert [problem.split()[0] for problem in caught.value.problems] == [
        "--token-file",
        "--cookie-file",
        "--ca-file",
    ]
