"""The storage: whether one may write, read, list and delete there, and with which credentials."""

import json
from collections.abc import Mapping
from pathlib import Path

from repot import storage
from repot.errors import StorageError
from repot_pipelines.doctor.check import Check, failed, not_checked, ok, problem, within
from repot_pipelines.doctor.machine import nearest_folder

NAME = "access"
_SECONDS = 20
"""Storage itself goes on trying for longer than a person wants to wait for this answer."""


def check_access(storage_uri: str) -> Check:
    """Return whether objects can be written, read, listed and deleted below a folder; nothing is left there.

    Args:
        storage_uri: The folder.
    """
    is_local = storage.is_local(storage_uri)
    # A local folder that is not there yet is not made for a question.
    place = str(nearest_folder(Path(storage_uri))) if is_local else storage_uri
    try:
        within(_SECONDS, lambda: storage.check_writable(place))
    except TimeoutError:
        finding = f"{storage_uri} is not answered for within {_SECONDS} s."
        return problem(
            NAME,
            finding,
            "Check the network, the proxy and the firewall, and the address of the store.",
        )
    except StorageError as err:
        return failed(NAME, err, fix="Choose another --storage-uri.")
    later = (
        f" ({place} is there, the rest is made when it is needed)" if place != storage_uri else ""
    )
    return ok(NAME, f"{storage_uri} can be written, read and listed{later}")


def check_credentials(storage_uri: str, environment: Mapping[str, str]) -> Check:
    """Return with which credentials this machine comes to the storage; pods come with those of their service account.

    Args:
        storage_uri: The folder.
        environment: Variables by name.
    """
    scheme = "" if storage.is_local(storage_uri) else storage_uri.partition("://")[0]
    words = describe_credentials(scheme, environment, Path.home())
    pods = "; pods come with those of their service account" if scheme else ""
    if words is None:
        return not_checked(
            "credentials", f"nothing here names any, so they are the machine's own, if any{pods}"
        )
    return ok("credentials", f"{words}{pods}")


_KINDS = {
    "service_account": "the key of a service account",
    "authorized_user": "the login of a person",
    "external_account": "workload identity federation",
    "impersonated_service_account": "an impersonated service account",
}


def describe_credentials(scheme: str, environment: Mapping[str, str], home: Path) -> str | None:
    """Return in words what is taken; None where nothing here names any, and the machine or pod may have its own.

    Args:
        scheme: "gs", "s3", or "" for local files.
        environment: Variables by name.
        home: The user's home folder.
    """
    if scheme == "gs":
        return _google(environment, home)
    if scheme == "s3":
        return _s3(environment, home)
    return "the rights of this user"


def _google(environment: Mapping[str, str], home: Path) -> str | None:
    if environment.get("STORAGE_EMULATOR_HOST"):
        return f"none, for STORAGE_EMULATOR_HOST is {environment['STORAGE_EMULATOR_HOST']}"
    if environment.get("REPOT_GOOGLE_KEY"):
        return "the service account's key in REPOT_GOOGLE_KEY"
    key_file = environment.get("GOOGLE_APPLICATION_CREDENTIALS")
    if key_file:
        return f"{_google_file(Path(key_file))} (GOOGLE_APPLICATION_CREDENTIALS)"
    settings = Path(environment.get("CLOUDSDK_CONFIG") or home / ".config" / "gcloud")
    login = settings / "application_default_credentials.json"
    if login.is_file():
        return f"{_google_file(login)} (gcloud auth application-default login)"
    return None


def _google_file(path: Path) -> str:
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        kind = _KINDS.get(facts["type"], "credentials")
    except (OSError, ValueError, KeyError, TypeError):
        return f"{path}, which is not there or no credentials file"
    account = facts.get("client_email") or facts.get("account")
    return f"{kind}{f' {account}' if account else ''} in {path}"


def _s3(environment: Mapping[str, str], home: Path) -> str | None:
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
