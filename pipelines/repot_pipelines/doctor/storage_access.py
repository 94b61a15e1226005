"""Check the storage folder: whether this machine can use it, and with which credentials."""

import json
from collections.abc import Mapping
from pathlib import Path

from repot import storage
from repot.errors import StorageError
from repot.user_files import read_user_file
from repot_pipelines.cluster.kubeconfig import call_with_timeout
from repot_pipelines.doctor.machine import nearest_existing_folder
from repot_pipelines.doctor.results import (
    CheckResult,
    not_checked,
    ok,
    problem,
    problem_from_error,
)

STORAGE_ACCESS = "access"
_CREDENTIALS = "credentials"

_ACCESS_SECONDS = 20
"""The storage client retries for longer than anyone wants to wait for this check."""

# Kind of credentials by the "type" in a Google credentials file.
_GOOGLE_TYPES = {
    "service_account": "the key of a service account",
    "authorized_user": "a user login",
    "external_account": "workload identity federation",
    "impersonated_service_account": "an impersonated service account",
}


def check_access(storage_uri: str) -> CheckResult:
    """Check that objects in a folder can be written, read, listed and deleted; leave no trace.

    Args:
        storage_uri: The folder.
    """
    is_local = storage.is_local(storage_uri)
    # A check must not create the folder, so a missing local folder is checked at its parent.
    checked = str(nearest_existing_folder(Path(storage_uri))) if is_local else storage_uri
    try:
        call_with_timeout(_ACCESS_SECONDS, lambda: storage.check_writable(checked))
    except TimeoutError:
        return problem(
            STORAGE_ACCESS,
            f"{storage_uri} does not respond within {_ACCESS_SECONDS} s.",
            "Check the network, proxy and firewall, and the address of the store.",
        )
    except StorageError as err:
        return problem_from_error(STORAGE_ACCESS, err, fix="Choose another --storage-uri.")
    note = f" ({checked} exists; the rest is created on demand)" if checked != storage_uri else ""
    return ok(STORAGE_ACCESS, f"{storage_uri} can be written, read and listed{note}")


def check_credentials(storage_uri: str, environment: Mapping[str, str]) -> CheckResult:
    """Report the credentials this machine uses for the storage; pods use their service account.

    Args:
        storage_uri: The folder.
        environment: Environment variables by name.
    """
    scheme = "" if storage.is_local(storage_uri) else storage_uri.partition("://")[0]
    credentials = describe_credentials(scheme, environment, Path.home())
    pods = "; pods use the credentials of their service account" if scheme else ""
    if credentials is None:
        finding = f"none configured here; the machine may provide its own{pods}"
        return not_checked(_CREDENTIALS, finding)
    return ok(_CREDENTIALS, f"{credentials}{pods}")


def describe_credentials(scheme: str, environment: Mapping[str, str], home: Path) -> str | None:
    """Describe the credentials the storage client will use, without their values.

    Args:
        scheme: "gs", "s3", or "" for local files.
        environment: Environment variables by name.
        home: The user's home folder.

    Returns:
        The description; None if nothing is configured here, so that only the machine or pod may
        provide credentials.
    """
    if scheme == "gs":
        return _describe_google(environment, home)
    if scheme == "s3":
        return _describe_s3(environment, home)
    return "file permissions of this user"


def _describe_google(environment: Mapping[str, str], home: Path) -> str | None:
    if environment.get("STORAGE_EMULATOR_HOST"):
        emulator = environment["STORAGE_EMULATOR_HOST"]
        return f"none, because STORAGE_EMULATOR_HOST is {emulator}"
    if environment.get("REPOT_GOOGLE_KEY"):
        return "the service account key in REPOT_GOOGLE_KEY"
    key_file = environment.get("GOOGLE_APPLICATION_CREDENTIALS")
    if key_file:
        return f"{_describe_google_file(Path(key_file))} (GOOGLE_APPLICATION_CREDENTIALS)"
    gcloud_folder = Path(environment.get("CLOUDSDK_CONFIG") or home / ".config" / "gcloud")
    login_path = gcloud_folder / "application_default_credentials.json"
    if login_path.is_file():
        return f"{_describe_google_file(login_path)} (gcloud auth application-default login)"
    return None


def _describe_google_file(path: Path) -> str:
    try:
        content = json.loads(read_user_file(path))
        kind = _GOOGLE_TYPES.get(content["type"], "credentials")
    except (OSError, ValueError, KeyError, TypeError):
        return f"{path}, which does not exist or is not a credentials file"
    account = content.get("client_email") or content.get("account")
    return f"{kind}{f' {account}' if account else ''} in {path}"


def _describe_s3(environment: Mapping[str, str], home: Path) -> str | None:
    endpoint = environment.get("AWS_ENDPOINT_URL_S3") or environment.get("AWS_ENDPOINT_URL")
    at = f", at {endpoint}" if endpoint else ""
    if environment.get("AWS_ACCESS_KEY_ID"):
        return f"the key in AWS_ACCESS_KEY_ID{at}"
    if environment.get("AWS_WEB_IDENTITY_TOKEN_FILE"):
        return f"the pod's identity token, as {environment.get('AWS_ROLE_ARN', 'no role')}{at}"
    path = Path(environment.get("AWS_SHARED_CREDENTIALS_FILE") or home / ".aws" / "credentials")
    if path.is_file():
        return f"the profile {environment.get('AWS_PROFILE', 'default')} in {path}{at}"
    return None
