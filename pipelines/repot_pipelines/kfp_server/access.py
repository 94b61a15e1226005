"""Where the server is, and with which right one comes: flags, environment, the pod that one is in, kubeconfig."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from repot.errors import UsageError

HOST_VARIABLE = "KF_PIPELINES_ENDPOINT"
UI_VARIABLE = "KF_PIPELINES_UI_ENDPOINT"
TOKEN_VARIABLE = "KF_PIPELINES_TOKEN"
TOKEN_PATH_VARIABLE = "KF_PIPELINES_SA_TOKEN_PATH"
COOKIE_VARIABLE = "KF_PIPELINES_COOKIE"
IAP_VARIABLE = "KF_PIPELINES_IAP_OAUTH2_CLIENT_ID"

# Where KFP's own SDK looks for the token that the kubelet renews.
_POD_TOKEN_PATH = Path("/var/run/secrets/kubeflow/pipelines/token")


@dataclass(frozen=True, kw_only=True, slots=True)
class Access:
    """How to reach a server.

    Attributes:
        host: Address of KFP's UI or API; "" takes the cluster that this pod is in, or that of kubeconfig.
        ui_host: Address that a person's browser opens; "" for `host`.
        token_path: File with a bearer token, read again for every request; None for none.
        token: A bearer token; "" for none.
        cookie: A session, `name=value`; "" for none.
        iap_client_id: OAuth client id of Google's Identity-Aware Proxy; "" for none.
        kfp_namespace: Namespace in which KFP is installed.
        kube_context: Context of kubeconfig; "" for the current one.
        ca_path: Certificates to check the server's with; None for the usual ones.
    """

    host: str = ""
    ui_host: str = ""
    token_path: Path | None = None
    token: str = field(default="", repr=False)
    cookie: str = field(default="", repr=False)
    iap_client_id: str = ""
    kfp_namespace: str = "kubeflow"
    kube_context: str = ""
    ca_path: Path | None = None


def read_access(given: Mapping[str, Any], environment: Mapping[str, str]) -> Access:
    """Return what the flags say, and the environment where they say nothing.

    Args:
        given: The flags: host, ui_host, token_file, cookie_file, iap_client_id, kfp_namespace, kube_context, ca_file.
        environment: Variables by name.

    Raises:
        UsageError: Lists every file that cannot be read or is empty, credentials that cannot be any, and credentials
            without a host.
    """
    host = _with_scheme(given["host"] or _offered_host(given, environment))
    credentials = _given_credentials(given) or (_offered_credentials(environment) if host else {})
    _check(given, credentials, host)
    return Access(
        host=host,
        ui_host=_with_scheme(given["ui_host"] or environment.get(UI_VARIABLE, "")),
        kfp_namespace=given["kfp_namespace"],
        kube_context=given["kube_context"] or "",
        ca_path=given["ca_file"],
        **credentials,
    )


def _given_credentials(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the flags bring: the environment must not get in the way of the one way in that a flag names."""
    credentials = {
        "token_path": given["token_file"],
        "cookie": _content(given["cookie_file"]) if given["cookie_file"] else "",
        "iap_client_id": given["iap_client_id"] or "",
    }
    return (
        credentials if given["token_file"] or given["cookie_file"] or given["iap_client_id"] else {}
    )


def _offered_credentials(environment: Mapping[str, str]) -> dict[str, Any]:
    path = environment.get(TOKEN_PATH_VARIABLE)
    return {
        "token_path": Path(path) if path else _pod_token_path(environment),
        "token": environment.get(TOKEN_VARIABLE, ""),
        "cookie": environment.get(COOKIE_VARIABLE, ""),
        "iap_client_id": environment.get(IAP_VARIABLE, ""),
    }


def _check(given: Mapping[str, Any], credentials: Mapping[str, Any], host: str) -> None:
    paths = {
        f"--token-file (or {TOKEN_PATH_VARIABLE})": credentials.get("token_path"),
        "--cookie-file": given["cookie_file"],
        "--ca-file": given["ca_file"],
    }
    problems = [
        f"{option} must name a file with something in it; got {path}."
        for option, path in paths.items()
        if path is not None and not _content(path)
    ]
    problems += _credential_problems(given, credentials)
    if credentials and not host:
        problems.append(
            f"Credentials must come with --host (or {HOST_VARIABLE}): without it kubeconfig says where to go, and "
            "brings its own."
        )
    if problems:
        raise UsageError(problems)


def _credential_problems(given: Mapping[str, Any], credentials: Mapping[str, Any]) -> list[str]:
    """Return a sentence for what cannot stand in a header, such as a key file in place of a token; quote none of it."""
    token_path, is_cookie_given = credentials.get("token_path"), bool(given["cookie_file"])
    contents = {
        f"The token in {token_path}": _content(token_path) if token_path else "",
        f"The token in {TOKEN_VARIABLE}": credentials.get("token", "").strip(),
        f"The cookie in {given['cookie_file'] if is_cookie_given else COOKIE_VARIABLE}": credentials.get(
            "cookie", ""
        ),
    }
    return [
        f"{what} must be one line of printable ASCII characters; it is not. Is it a key file, or several lines?"
        for what, text in contents.items()
        if not (text.isascii() and text.isprintable())
    ]


def _offered_host(given: Mapping[str, Any], environment: Mapping[str, str]) -> str:
    """Return the address in the environment, or the service's where this process runs in a pod.

    A context that a flag names is the way in: the environment leads nowhere else.
    """
    if given["kube_context"]:
        return ""
    if environment.get(HOST_VARIABLE) or "KUBERNETES_SERVICE_HOST" not in environment:
        return environment.get(HOST_VARIABLE, "")
    return f"http://ml-pipeline.{given['kfp_namespace']}.svc.cluster.local:8888"


def _pod_token_path(environment: Mapping[str, str]) -> Path | None:
    return (
        _POD_TOKEN_PATH
        if "KUBERNETES_SERVICE_HOST" in environment and _POD_TOKEN_PATH.exists()
        else None
    )


def _with_scheme(host: str) -> str:
    host = host.strip().rstrip("/")
    if not host or "://" in host:
        return host
    is_here = host.split(":")[0] in ("localhost", "127.0.0.1")
    return f"{'http' if is_here else 'https'}://{host}"


def _content(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""
