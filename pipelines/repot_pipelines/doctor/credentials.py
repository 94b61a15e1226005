"""Which credentials an object store's client takes on this machine, told without asking anybody and without secrets.

The order is that of the clients themselves: https://cloud.google.com/docs/authentication/application-default-credentials
and https://docs.aws.amazon.com/sdkref/latest/guide/standardized-credentials.html.
"""

import json
from collections.abc import Mapping
from pathlib import Path

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
