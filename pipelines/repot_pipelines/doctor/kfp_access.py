"""Kubeflow Pipelines: whether the server can be reached, is new enough, and lets one in."""

from typing import TYPE_CHECKING

from repot.errors import RepotError, UsageError
from repot_pipelines.doctor.check import Check, failed, not_checked, ok, problem, warning

if TYPE_CHECKING:
    from repot_pipelines.kfp_server.access import Access

_SIGN_IN = "sign-in"


def check_server(access: "Access", *, namespace: str) -> list[Check]:
    """Return how the server is and whether it lets one in.

    Args:
        access: Where it is, and with which right one comes.
        namespace: Whose runs are meant, on a server with several users.
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
        found = ok(
            "server",
            f"{server.address} is Kubeflow Pipelines {version}; {oldest} or later is needed",
        )
    else:
        fix = f"Look at the version in the UI, bottom left: it must be {oldest} or later."
        found = warning("server", f"{server.address} answers, and does not say its version.", fix)
    try:
        service = server.client.experiments
        server.call(
            "list experiments",
            service.experiment_service_list_experiments,
            page_size=1,
            namespace=server.namespace,
        )
    except ServerError as err:
        return [
            found,
            failed(
                _SIGN_IN, err, fix="Look at the server's log: kubectl logs deployment/ml-pipeline."
            ),
        ]
    whose = f" of {server.namespace}" if server.namespace else ""
    return [found, ok(_SIGN_IN, f"may list the experiments{whose}, {_how(access)}")]


def _no_server(err: RepotError, access: "Access") -> Check:
    if isinstance(err, UsageError):
        return problem("server", str(err), "Give --namespace.")
    forward = f"kubectl port-forward -n {access.kfp_namespace} svc/ml-pipeline-ui 8080:80"
    return failed(
        "server", err, fix=f"Check --host, or use `{forward}` and --host http://localhost:8080."
    )


def _how(access: "Access") -> str:
    """Return with what one comes, without telling it."""
    if access.iap_client_id:
        return "with an identity token for Google's proxy"
    if access.token:
        return "with the token in KF_PIPELINES_TOKEN"
    if access.token_path is not None:
        return f"with the token in {access.token_path}"
    if access.cookie:
        return "with a session cookie"
    return "without credentials" if access.host else "with the credentials of kubeconfig"
