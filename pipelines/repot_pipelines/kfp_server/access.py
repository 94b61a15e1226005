"""Resolve the server address and credentials from options, environment, pod or kubeconfig.

An option always wins over the environment:

- address: --host, then KF_PIPELINES_ENDPOINT, then the service inside the cluster if this process
  runs in a pod and KUBECONFIG is not set, then kubeconfig. --context selects kubeconfig and ignores
  the environment.
- credentials: the options if any is set, else the environment. Both need an address; kubeconfig
  carries its own credentials.
- certificate authorities: --ca-file, then those of the environment, then the built-in ones;
  kubeconfig carries its own.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from repot.errors import UsageError
from repot.tls import CA_VARIABLES
from repot.user_files import read_user_file
from repot_pipelines import defaults
from repot_pipelines.cluster.kubeconfig import POD_VARIABLE

HOST_VARIABLE = "KF_PIPELINES_ENDPOINT"
UI_VARIABLE = "KF_PIPELINES_UI_ENDPOINT"
TOKEN_VARIABLE = "KF_PIPELINES_TOKEN"
TOKEN_PATH_VARIABLE = "KF_PIPELINES_SA_TOKEN_PATH"
COOKIE_VARIABLE = "KF_PIPELINES_COOKIE"
IAP_VARIABLE = "KF_PIPELINES_IAP_OAUTH2_CLIENT_ID"

_POD_TOKEN_PATH = Path("/var/run/secrets/kubeflow/pipelines/token")
"""Where KFP's SDK expects the projected service account token; the kubelet renews the file."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ConnectionOptions:
    """The command line's options for the server; None or "" means that an option is not set.

    Attributes:
        host: Address of KFP's UI or API, with or without a scheme.
        ui_host: Address to open in a browser.
        token_file: File with a bearer token.
        cookie_file: File with a session cookie, `name=value`.
        iap_client_id: OAuth client id of Google's Identity-Aware Proxy.
        kube_context: kubeconfig context.
        namespace: Namespace of the runs, on a multi-user server.
        kfp_namespace: Namespace in which KFP is installed.
        ca_file: CA certificates that sign the server's certificate.
    """

    host: str | None = None
    ui_host: str | None = None
    token_file: Path | None = None
    cookie_file: Path | None = None
    iap_client_id: str | None = None
    kube_context: str | None = None
    namespace: str = ""
    kfp_namespace: str = defaults.KFP_NAMESPACE
    ca_file: Path | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Access:
    """The resolved server address and credentials.

    Attributes:
        host: URL of KFP's UI or API; "" to find the server through kubeconfig.
        ui_host: URL to open in a browser; "" for `host`.
        token_path: File with a bearer token, read again for every request; None for no file.
        token: Bearer token; "" for none.
        cookie: Session cookie, `name=value`; "" for none.
        iap_client_id: OAuth client id of Google's Identity-Aware Proxy; "" for none.
        kfp_namespace: Namespace in which KFP is installed.
        kube_context: kubeconfig context; "" for the current one.
        ca_path: CA certificates that sign the server's certificate; None for the built-in ones.
    """

    host: str = ""
    ui_host: str = ""
    token_path: Path | None = None
    token: str = field(default="", repr=False)
    cookie: str = field(default="", repr=False)
    iap_client_id: str = ""
    kfp_namespace: str = defaults.KFP_NAMESPACE
    kube_context: str = ""
    ca_path: Path | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Credentials:
    """Credentials from one source, either the options or the environment."""

    token_path: Path | None = None
    token: str = field(default="", repr=False)
    cookie: str = field(default="", repr=False)
    iap_client_id: str = ""

    def __bool__(self) -> bool:
        return bool(self.token_path or self.token or self.cookie or self.iap_client_id)


def resolve_access(options: ConnectionOptions, environment: Mapping[str, str]) -> Access:
    """Return the server address and credentials.

    Args:
        options: The command line's options.
        environment: Environment variables by name.

    Raises:
        UsageError: Lists every file that is unreadable or empty, malformed credentials, and
            credentials without an address.
    """
    host = _with_scheme(options.host or _host_from_environment(options, environment))
    credentials = _Credentials()
    if options.token_file or options.cookie_file or options.iap_client_id:
        # Credentials in the environment must not compete with those that an option names.
        credentials = _credentials_from_options(options)
    elif host:
        credentials = _credentials_from_environment(environment)
    ca_source, ca_path = _find_authorities(options, environment if host else {})
    _check(options, credentials, host, {ca_source: ca_path})
    return Access(
        host=host,
        ui_host=_with_scheme(options.ui_host or environment.get(UI_VARIABLE, "")),
        token_path=credentials.token_path,
        token=credentials.token,
        cookie=credentials.cookie,
        iap_client_id=credentials.iap_client_id,
        kfp_namespace=options.kfp_namespace,
        kube_context=options.kube_context or "",
        ca_path=ca_path,
    )


def _host_from_environment(options: ConnectionOptions, environment: Mapping[str, str]) -> str:
    """Return the address in the environment, or the cluster-internal service if this is a pod."""
    if options.kube_context:
        return ""
    selects_kubeconfig = environment.get("KUBECONFIG", "") not in ("", os.devnull)
    is_own_cluster = POD_VARIABLE in environment and not selects_kubeconfig
    if environment.get(HOST_VARIABLE) or not is_own_cluster:
        return environment.get(HOST_VARIABLE, "")
    return f"http://ml-pipeline.{options.kfp_namespace}.svc.cluster.local:8888"


def _find_authorities(
    options: ConnectionOptions, environment: Mapping[str, str]
) -> tuple[str, Path | None]:
    """Return what names the file of certificate authorities, and the file; None for none."""
    for name in CA_VARIABLES if options.ca_file is None else ():
        # A folder of certificates is valid there, but the generated clients take only a file.
        if environment.get(name) and not (path := Path(environment[name])).is_dir():
            return name, path
    return "--ca-file", options.ca_file


def _credentials_from_options(options: ConnectionOptions) -> _Credentials:
    return _Credentials(
        token_path=options.token_file,
        cookie=_read(options.cookie_file) if options.cookie_file else "",
        iap_client_id=options.iap_client_id or "",
    )


def _credentials_from_environment(environment: Mapping[str, str]) -> _Credentials:
    path = environment.get(TOKEN_PATH_VARIABLE)
    return _Credentials(
        token_path=Path(path) if path else _pod_token_path(environment),
        token=environment.get(TOKEN_VARIABLE, ""),
        cookie=environment.get(COOKIE_VARIABLE, ""),
        iap_client_id=environment.get(IAP_VARIABLE, ""),
    )


def _pod_token_path(environment: Mapping[str, str]) -> Path | None:
    is_pod = POD_VARIABLE in environment
    return _POD_TOKEN_PATH if is_pod and _POD_TOKEN_PATH.exists() else None


def _check(
    options: ConnectionOptions,
    credentials: _Credentials,
    host: str,
    authorities: Mapping[str, Path | None],
) -> None:
    paths = {
        f"--token-file (or {TOKEN_PATH_VARIABLE})": credentials.token_path,
        "--cookie-file": options.cookie_file,
        **authorities,
    }
    problems = [
        f"{option} must name a readable file of 1 byte to 1 MiB; got {path}."
        for option, path in paths.items()
        if path is not None and not _read(path)
    ]
    problems += _credential_problems(options, credentials)
    if (credentials or options.token_file or options.cookie_file) and not host:
        problems.append(
            f"Credentials must come with --host (or {HOST_VARIABLE}): without it the address comes "
            "from kubeconfig, which has its own credentials."
        )
    if problems:
        raise UsageError(problems)


def _credential_problems(options: ConnectionOptions, credentials: _Credentials) -> list[str]:
    """Return one message per credential that is no valid HTTP header; never quote its content."""
    token_path = credentials.token_path
    contents = {
        f"The token in {token_path}": _read(token_path) if token_path else "",
        f"The token in {TOKEN_VARIABLE}": credentials.token.strip(),
        f"The cookie in {options.cookie_file or COOKIE_VARIABLE}": credentials.cookie,
    }
    return [
        f"{source} must be one line of printable ASCII characters; it is not. "
        "Does it hold a key file or several lines?"
        for source, text in contents.items()
        if not (text.isascii() and text.isprintable())
    ]


def _with_scheme(host: str) -> str:
    host = host.strip().rstrip("/")
    if not host or "://" in host:
        return host
    is_local = host.split(":")[0] in ("localhost", "127.0.0.1")
    return f"{'http' if is_local else 'https'}://{host}"


# HTTP servers accept less in a header; a bundle of CA certificates has a quarter of a megabyte.
_MAX_SECRET_BYTES = 2**20


def _read(path: Path) -> str:
    try:
        return read_user_file(path, _MAX_SECRET_BYTES).decode().strip()
    except (OSError, UnicodeDecodeError):
        return ""
