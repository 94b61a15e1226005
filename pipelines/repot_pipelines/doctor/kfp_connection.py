"""Check Kubeflow Pipelines: reachable, recent enough, and accepting the credentials."""

from typing import TYPE_CHECKING

from repot.errors import RepotError, UsageError
from repot_pipelines.doctor.results import (
    CheckResult,
    not_checked,
    ok,
    problem,
    problem_from_error,
    warning,
)

if TYPE_CHECKING:
    from repot_pipelines.kfp_server.access import Access

SERVER = "server"
_SIGN_IN = "sign-in"


def check_server(access: "Access", *, namespace: str) -> list[CheckResult]:
    """Check the version of the server and that it accepts the credentials.

    Args:
        access: Server address and credentials.
        namespace: Namespace of the runs on a multi-user server; "" for single-user.
    """
    from repot_pipelines.kfp_server.errors import ServerError
    from repot_pipelines.kfp_server.server import OLDEST_VERSION, connect

    oldest = ".".join(map(str, OLDEST_VERSION))
    try:
        server = connect(access, namespace=namespace)
    except (ServerError, UsageError) as err:
        return [_no_server(err, access), not_checked(_SIGN_IN, "the server cannot be used")]
    version = ".".join(map(str, server.version or ()))
    if version:
        finding = f"{server.address} runs Kubeflow Pipelines {version}; {oldest} or later is needed"
        found = ok(SERVER, finding)
    else:
        found = warning(
            SERVER,
            f"{server.address} answers but does not report its version.",
            f"Check the version at the bottom left of the UI: it must be {oldest} or later.",
        )
    try:
        server.call(
            "list experiments",
            server.client.experiments.experiment_service_list_experiments,
            page_size=1,
            namespace=server.namespace,
        )
    except ServerError as err:
        fix = "Check the server's log: kubectl logs deployment/ml-pipeline."
        return [found, problem_from_error(_SIGN_IN, err, fix=fix)]
    scope = f" of {server.namespace}" if server.namespace else ""
    finding = f"can list the experiments{scope}, {_describe_credentials(access)}"
    return [found, ok(_SIGN_IN, finding)]


def _no_server(err: RepotError, access: "Access") -> CheckResult:
    if isinstance(err, UsageError):
        return problem(SERVER, str(err), "Pass --namespace.")
    forward = f"kubectl port-forward -n {access.kfp_namespace} svc/ml-pipeline-ui 8080:80"
    fix = f"Check --host, or use `{forward}` and --host http://localhost:8080."
    return problem_from_error(SERVER, err, fix=fix)


def _describe_credentials(access: "Access") -> str:
    """Return which kind of credentials is used, without their values."""
    if access.iap_client_id:
        return "with an identity token for Google's Identity-Aware Proxy"
    if access.token:
        return "with the token in KF_PIPELINES_TOKEN"
    if access.token_path is not None:
        return f"with the token in {access.token_path}"
    if access.cookie:
        return "with a session cookie"
    return "without credentials" if access.host else "with the credentials of kubeconfig"
