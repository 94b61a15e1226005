import json
from pathlib import Path

import pytest

from repot_pipelines.doctor.results import NOT_CHECKED, OK, PROBLEM
from repot_pipelines.doctor.storage_access import (
    check_access,
    check_credentials,
    describe_credentials,
)


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    content = {
        "type": "service_account",
        "client_email": "robot@p.iam.gserviceaccount.com",
        "private_key": "s3cret",
    }
    path = tmp_path / "key.json"
    path.write_text(json.dumps(content))
    return path


def test_checked_folder_is_left_unchanged(tmp_path: Path) -> None:
    result = check_access(str(tmp_path))

    assert result.state == OK
    assert list(tmp_path.iterdir()) == []


def test_missing_folder_is_ok_and_is_not_created(tmp_path: Path) -> None:
    result = check_access(str(tmp_path / "later" / "on"))

    assert result.state == OK
    assert "created on demand" in result.finding
    assert list(tmp_path.iterdir()) == []


def test_file_in_place_of_a_folder_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    result = check_access(str(tmp_path / "file" / "below"))

    assert result.state == PROBLEM
    assert result.fix


def test_credentials_result_says_that_pods_use_their_service_account(tmp_path: Path) -> None:
    local = check_credentials(str(tmp_path), {})
    with_key = check_credentials("gs://bucket/x", {"REPOT_GOOGLE_KEY": "x"})
    without = check_credentials("gs://bucket/x", {"CLOUDSDK_CONFIG": str(tmp_path)})

    assert local.finding == "file permissions of this user"
    assert "pods use the credentials of their service account" in with_key.finding
    assert without.state == NOT_CHECKED


def test_google_credentials_are_found_in_order_of_precedence(
    tmp_path: Path, key_file: Path
) -> None:
    login = tmp_path / ".config" / "gcloud" / "application_default_credentials.json"
    variables = {"REPOT_GOOGLE_KEY": "{}", "GOOGLE_APPLICATION_CREDENTIALS": str(key_file)}
    emulator = {"STORAGE_EMULATOR_HOST": "http://here"}
    found = [
        describe_credentials("gs", emulator | variables, tmp_path),
        describe_credentials("gs", variables, tmp_path),
    ]
    del variables["REPOT_GOOGLE_KEY"]
    found.append(describe_credentials("gs", variables, tmp_path))
    login.parent.mkdir(parents=True)
    login.write_text('{"type": "authorized_user"}')
    found.append(describe_credentials("gs", {}, tmp_path))
    found.append(describe_credentials("gs", {}, tmp_path / "elsewhere"))

    assert found == [
        "none, because STORAGE_EMULATOR_HOST is http://here",
        "the service account key in REPOT_GOOGLE_KEY",
        (
            f"the key of a service account robot@p.iam.gserviceaccount.com in {key_file} "
            "(GOOGLE_APPLICATION_CREDENTIALS)"
        ),
        f"a user login in {login} (gcloud auth application-default login)",
        None,
    ]


def test_gcloud_login_is_found_in_cloudsdk_config(tmp_path: Path) -> None:
    (tmp_path / "application_default_credentials.json").write_text('{"type": "external_account"}')

    found = describe_credentials("gs", {"CLOUDSDK_CONFIG": str(tmp_path)}, tmp_path / "home")

    assert found is not None
    assert found.startswith("workload identity federation in")


@pytest.mark.parametrize("text", [None, "", "[]", "{}", "\udcff"])
def test_invalid_google_credentials_file_is_reported(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "key.json"
    if text is not None:
        path.write_bytes(text.encode("utf-8", "surrogateescape"))

    found = describe_credentials("gs", {"GOOGLE_APPLICATION_CREDENTIALS": str(path)}, tmp_path)

    assert found is not None
    assert "does not exist or is not a credentials file" in found


def test_s3_credentials_are_found_in_order_of_precedence(tmp_path: Path) -> None:
    endpoint = {"AWS_ENDPOINT_URL": "http://store"}
    token = {"AWS_WEB_IDENTITY_TOKEN_FILE": "/token", "AWS_ROLE_ARN": "arn:aws:iam::1:role/r"}
    found = [
        describe_credentials("s3", {"AWS_ACCESS_KEY_ID": "AKIA", **token, **endpoint}, tmp_path),
        describe_credentials("s3", token, tmp_path),
        describe_credentials("s3", {}, tmp_path),
    ]
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws" / "credentials").write_text("[work]\n")
    found.append(describe_credentials("s3", {"AWS_PROFILE": "work"}, tmp_path))

    assert found == [
        "the key in AWS_ACCESS_KEY_ID, at http://store",
        "the pod's identity token, as arn:aws:iam::1:role/r",
        None,
        f"the profile work in {tmp_path}/.aws/credentials",
    ]
