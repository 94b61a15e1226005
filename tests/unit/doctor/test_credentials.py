import json
from pathlib import Path

import pytest

from repot_pipelines.doctor.storage_access import describe_credentials


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    facts = {
        "type": "service_account",
        "client_email": "robot@p.iam.gserviceaccount.com",
        "private_key": "s3cret",
    }
    path = tmp_path / "key.json"
    path.write_text(json.dumps(facts))
    return path


def test_google_takes_the_first_that_is_there(tmp_path: Path, key_file: Path) -> None:
    login = tmp_path / ".config" / "gcloud" / "application_default_credentials.json"
    variables = {"REPOT_GOOGLE_KEY": "{}", "GOOGLE_APPLICATION_CREDENTIALS": str(key_file)}
    told = [
        describe_credentials("gs", {"STORAGE_EMULATOR_HOST": "http://here", **variables}, tmp_path)
    ]
    told.append(describe_credentials("gs", variables, tmp_path))
    del variables["REPOT_GOOGLE_KEY"]
    told.append(describe_credentials("gs", variables, tmp_path))
    login.parent.mkdir(parents=True)
    login.write_text('{"type": "authorized_user"}')
    told.append(describe_credentials("gs", {}, tmp_path))
    told.append(describe_credentials("gs", {}, tmp_path / "elsewhere"))

    assert told == [
        "none, for STORAGE_EMULATOR_HOST is http://here",
        "the service account's key in REPOT_GOOGLE_KEY",
        f"the key of a service account robot@p.iam.gserviceaccount.com in {key_file} (GOOGLE_APPLICATION_CREDENTIALS)",
        f"the login of a person in {login} (gcloud auth application-default login)",
        None,
    ]


def test_gcloud_may_keep_its_login_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "application_default_credentials.json").write_text('{"type": "external_account"}')

    told = describe_credentials("gs", {"CLOUDSDK_CONFIG": str(tmp_path)}, tmp_path / "home")

    assert told is not None
    assert told.startswith("workload identity federation in")


@pytest.mark.parametrize("text", [None, "", "[]", "{}", "\udcff"])
def test_a_file_that_is_none_is_told(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "key.json"
    if text is not None:
        path.write_bytes(text.encode("utf-8", "surrogateescape"))

    told = describe_credentials("gs", {"GOOGLE_APPLICATION_CREDENTIALS": str(path)}, tmp_path)

    assert told is not None
    assert "not there or no credentials file" in told


def test_s3_takes_the_first_that_is_there(tmp_path: Path) -> None:
    endpoint = {"AWS_ENDPOINT_URL": "http://store"}
    token = {"AWS_WEB_IDENTITY_TOKEN_FILE": "/token", "AWS_ROLE_ARN": "arn:aws:iam::1:role/r"}
    told = [
        describe_credentials("s3", {"AWS_ACCESS_KEY_ID": "AKIA", **token, **endpoint}, tmp_path),
        describe_credentials("s3", token, tmp_path),
        describe_credentials("s3", {}, tmp_path),
    ]
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws" / "credentials").write_text("[work]\n")
    told.append(describe_credentials("s3", {"AWS_PROFILE": "work"}, tmp_path))

    assert told == [
        "the key in AWS_ACCESS_KEY_ID, at http://store",
        "the pod's identity token, as arn:aws:iam::1:role/r",
        None,
        f"the profile work in {tmp_path}/.aws/credentials",
    ]


def test_local_files_need_none(tmp_path: Path) -> None:
    assert describe_credentials("", {}, tmp_path) == "the rights of this user"
