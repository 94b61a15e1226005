"""Check a cluster run before anything is sent: parameters, reachable URIs, names on the server."""

import re
from collections.abc import Iterator, Mapping

from repot import storage
from repot.checkpoint_files import is_web
from repot.checkpoints import DEFAULT, KNOWN_CHECKPOINTS, resolve_source
from repot.cluster_names import JOB_RUNNER_ACCOUNT, RUNNER_ACCOUNT
from repot.errors import UsageError
from repot.kubernetes_rules import is_object_name
from repot.masking import find_credentials, has_opaque_query, mask, secret_parts
from repot.settings import (
    ALL_SETTINGS,
    CLUSTER_DEFAULT,
    ParameterValues,
    TrainingSettings,
    empty_if_none,
    mode_problems,
)
from repot.zoo import BACKBONES

MAX_EXPERIMENT_NAME = 128
MAX_PIPELINE_NAME = 128
MAX_VERSION_NAME = 127
"""Longest names in bytes. Source: backend/src/apiserver/validation/length.go of KFP 2.17."""
MAX_RUN_NAME = 255
"""Longest name of a run in bytes: the column's size in servers before KFP 2.15."""
MAX_SCHEDULE_NAME = 235
"""Longest name of a schedule in bytes, so that a run's name can be this name and a time."""

# The stores that KFP's launcher can write to: backend/src/v2/objectstore/config.go of KFP 2.17.
_PIPELINE_ROOT = re.compile(r"(?:gs|s3|minio)://[^/?\s]+(?:/[^?\s]*)?(?:\?\S+)?")

# Stand-ins for required parameters that are absent here; their absence is reported elsewhere.
_REQUIRED = {"pictures_uri": "gs://bucket"}


def cluster_problems(parameters: ParameterValues) -> list[str]:
    """Return one message per value that a cluster would reject, or accept and silently ignore.

    Args:
        parameters: Settings by name, in the types of their fields. Absent ones are not checked.
    """
    problems = settings_problems(parameters)
    problems += _unreachable_uris(parameters)
    problems += _checkpoint_problems(parameters)
    problems += _credential_problems(parameters)
    problems += _mode_problems(parameters)
    return problems


def cluster_warnings(parameters: ParameterValues) -> list[str]:
    """Return one message per value that a cluster accepts, but that is probably a mistake."""
    warnings = [
        f"{name} contains a long query; if it holds a token, all who see the run in Kubeflow "
        "Pipelines can read it. Then copy the file to a bucket, and give its gs:// or s3:// URI."
        for name, value in parameters.items()
        if isinstance(value, str) and has_opaque_query(value)
    ]
    return [*TrainingSettings.from_parameters(parameters).warnings, *warnings]


def settings_problems(parameters: ParameterValues) -> list[str]:
    """Return one message per value that breaks the rule of its setting, wherever the run is."""
    problems: list[str] = []
    for settings in ALL_SETTINGS:
        try:
            settings.from_parameters({**_REQUIRED, **parameters})
        except UsageError as err:
            problems += err.problems
    return problems


def account_problems(parameters: ParameterValues, service_account: str) -> list[str]:
    """Return why a run cannot use a service account; empty if it can, or if that is unknown.

    Args:
        parameters: All parameters of the run.
        service_account: Kubernetes service account of the pods; "" for the server's default.
    """
    if parameters.get("trainer_mode") != "job" or service_account != RUNNER_ACCOUNT:
        return []
    problem = (
        "trainer_mode=job must run as a service account that may create Jobs; got "
        f"--service-account={service_account!r}. Use {JOB_RUNNER_ACCOUNT}, which the manifests "
        "create, or trainer_mode=pod."
    )
    return [problem]


def server_name_problem(name: str, max_bytes: int) -> str | None:
    """Return why a KFP server or its UI rejects or misreads a name; None if neither does.

    Args:
        name: Name of an experiment, pipeline, version, run or schedule.
        max_bytes: The longest that the server accepts.
    """
    num_bytes = len(name.encode(errors="surrogateescape"))
    if name.isprintable() and name.strip() == name != "" and num_bytes <= max_bytes:
        return None
    return (
        f"it must be 1 to {max_bytes} bytes of printable text on one line, without blanks at its "
        f"ends; got {name!r}."
    )


def stored_name_problems(names: Mapping[str, str]) -> list[str]:
    """Return one message per name that a server rejects if it keeps pipelines in Kubernetes.

    Source: CreatePipeline in backend/src/apiserver/storage/pipeline_store_kubernetes.go of KFP
    2.17, and the same rule in its UI.

    Args:
        names: Names of a pipeline and its version, by their option.
    """
    return [
        f"{option} must consist of lower-case letters, digits, '-' and '.', with a letter or digit "
        "at both ends: this server keeps pipelines as objects of Kubernetes; got "
        f"{option}={name!r}. Choose another name."
        for option, name in names.items()
        if not is_object_name(name)
    ]


def pipeline_root_problem(uri: str) -> str | None:
    """Return why KFP cannot keep its artifacts at a URI; None if it can."""
    if _PIPELINE_ROOT.fullmatch(uri) and uri.isprintable() and not find_credentials(uri):
        return None
    return (
        "it must be gs://, s3:// or minio://BUCKET/PATH without blanks and credentials; "
        f"got {mask(uri, secret_parts(uri))!r}."
    )


def _unreachable_uris(parameters: ParameterValues) -> Iterator[str]:
    required = ("pictures_uri", "storage_uri")
    optional = (
        "labels_file_uri",
        "imagenet_metadata_file_uri",
        "bounding_box_file_uri",
        "corrections_file_uri",
    )
    for name in (*required, *optional):
        uri = empty_if_none(parameters.get(name, ""))
        if not uri and name in parameters and name in required:
            yield (
                f"{name} must be the URI of a folder; it is empty. Use gs://BUCKET/PATH or "
                "s3://BUCKET/PATH; a variable of the shell may not be set."
            )
        if not uri or (name, uri) == ("storage_uri", CLUSTER_DEFAULT):
            continue
        try:
            is_local = storage.is_local(storage.normalise(uri))
        except UsageError as err:
            yield from (f"{name}: {problem}" for problem in err.problems)
            continue
        if is_local:
            yield _unreachable(name, uri)


def _unreachable(name: str, uri: str) -> str:
    return (
        f"{name} must be in an object store: pods cannot see the files of this machine; "
        f"got {name}={uri!r}. Use gs://BUCKET/PATH or s3://BUCKET/PATH, or run `repot run` here."
    )


def _checkpoint_problems(parameters: ParameterValues) -> Iterator[str]:
    """Check the checkpoint, except whether it exists: only the cluster can tell."""
    source, backbone = parameters.get("checkpoint", DEFAULT), parameters.get("backbone")
    if backbone not in BACKBONES:  # absent, or reported already
        return
    try:
        found = resolve_source(source, backbone=backbone)
    except UsageError as err:
        yield from err.problems
        return
    is_known = source in ("", DEFAULT, *KNOWN_CHECKPOINTS)
    if not is_known and not is_web(found.uri) and storage.is_local(found.uri):
        yield _unreachable("checkpoint", source)


def _credential_problems(parameters: ParameterValues) -> Iterator[str]:
    """Reject credentials in web addresses: a server keeps and shows every parameter of a run."""
    for name, value in parameters.items():
        if isinstance(value, str) and (found := find_credentials(value)):
            address = mask(value, secret_parts(value))
            yield (
                f"{name} must not contain credentials, because Kubeflow Pipelines stores every "
                f"parameter and shows it to all who see the run; got {found} in "
                f"{name}={address!r}. Copy the file to a bucket, and give its gs:// or s3:// URI: "
                "the pods read it with their own rights."
            )


def _mode_problems(parameters: ParameterValues) -> list[str]:
    mode = parameters.get("trainer_mode", "")
    return mode_problems(
        mode,
        num_workers=int(parameters.get("num_workers", 1)),
        accelerator_count=int(parameters.get("accelerator_count", 0)),
        batch_size=int(parameters.get("batch_size", 0)) if mode else 0,
    )
