"""What a cluster will not run, said before it is asked: rules about values, beyond names and types.

The rules themselves are those that the task Plan checks; only what a pod can see is known better here.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from repot import storage
from repot.checkpoint_files import is_web
from repot.checkpoints import DEFAULT, KNOWN_CHECKPOINTS, find_source
from repot.errors import UsageError
from repot.job_settings import mode_problems, read_job_settings
from repot.kubernetes_rules import quantity_problems
from repot.planner.preflight import run_problems
from repot.settings import DatasetSettings, GateSettings, TrainingSettings, given
from repot.zoo import BACKBONES

JOB_FIELDS = {
    "accelerator_count": "accelerator_count",
    "accelerator_type": "accelerator_type",
    "google_secret_name": "google_secret_name",
    "job_deadline_hours": "deadline_hours",
    "job_priority_class": "priority_class",
    "job_queue": "queue",
    "job_service_account": "service_account",
    "num_workers": "num_workers",
    "s3_secret_name": "s3_secret_name",
    "settings_config_map": "settings_config_map",
    "trainer_cpu": "cpu",
    "trainer_image": "image",
    "trainer_memory": "memory",
    "trainer_node_selector": "node_selector",
    "trainer_tolerations": "tolerations",
}
"""The field of JobSettings of the same meaning, by parameter."""


def cluster_problems(values: Mapping[str, Any]) -> list[str]:
    """Return a sentence for every value that a cluster would refuse, or would accept and silently not obey.

    Args:
        values: Parameters by name, defaults included, in the pipeline's types; what is missing is not checked.
    """
    rules = (_settings, _places, _checkpoint, _run, _builders, _job)
    return [problem for rule in rules for problem in rule(values)]


def _settings(values: Mapping[str, Any]) -> Iterator[str]:
    for settings in (DatasetSettings, TrainingSettings, GateSettings):
        build: Callable[[dict[str, Any]], Any] = settings.from_json
        names = settings().to_json()
        try:
            build({name: _like(values[name], names[name]) for name in names if name in values})
        except UsageError as err:
            yield from err.problems


def _like(value: Any, default: Any) -> Any:
    """Return a whole number as an int again: in the compiled YAML every number is a float."""
    return int(value) if isinstance(default, int) else value


def _places(values: Mapping[str, Any]) -> Iterator[str]:
    for name in ("pictures_uri", "storage_uri", "labels_file_uri"):
        uri = given(values.get(name, ""))
        if not uri:
            continue
        try:
            is_local = storage.is_local(storage.normalise(uri))
        except UsageError as err:
            yield from (f"{name}: {problem}" for problem in err.problems)
            continue
        if is_local:
            yield _not_here(name, uri)


def _not_here(name: str, uri: str) -> str:
    return (
        f"{name} must be in an object store: a pod cannot see the files of this machine; got {name}={uri!r}. "
        "Give gs://BUCKET/PATH or s3://BUCKET/PATH, or use `repot run` here."
    )


def _checkpoint(values: Mapping[str, Any]) -> Iterator[str]:
    """Check all about the checkpoint but whether it is there, which only the cluster can say."""
    source, backbone = values.get("checkpoint", DEFAULT), values.get("backbone")
    if backbone not in BACKBONES:  # said already
        return
    digest, kind = (
        given(values.get("checkpoint_sha256", "")),
        values.get("checkpoint_values", "auto"),
    )
    try:
        found = find_source(source, backbone=backbone, sha256=digest, values=kind)
    except UsageError as err:
        yield from err.problems
        return
    is_installed = source in ("", DEFAULT, *KNOWN_CHECKPOINTS)
    if not is_installed and not is_web(found.uri) and storage.is_local(found.uri):
        yield _not_here("checkpoint", source)


def _run(values: Mapping[str, Any]) -> Iterator[str]:
    if "builder_pods" in values and "model_name" in values:
        yield from run_problems(
            builder_pods=int(values["builder_pods"]), model_name=values["model_name"]
        )


def _builders(values: Mapping[str, Any]) -> Iterator[str]:
    if not values.get("cpu_image", "any").strip():
        yield f"cpu_image must be given; got cpu_image={values['cpu_image']!r}."
    quantities = ("builder_cpu", "builder_memory", "evaluator_cpu", "evaluator_memory")
    yield from quantity_problems({name: values[name] for name in quantities if name in values})


def _job(values: Mapping[str, Any]) -> Iterator[str]:
    facts: dict[str, Any] = {"image": "any", "accelerator_count": "0"}
    facts |= {field: values[name] for name, field in JOB_FIELDS.items() if name in values}
    facts |= {name: int(facts[name]) for name in ("num_workers", "deadline_hours") if name in facts}
    try:
        read_job_settings(facts)
    except UsageError as err:
        yield from err.problems
    if "trainer_mode" in values:
        count = facts["accelerator_count"]
        yield from mode_problems(
            values["trainer_mode"],
            num_workers=facts.get("num_workers", 1),
            accelerator_count=int(count) if count.isdecimal() else 0,
            batch_size=int(values.get("batch_size", 0)),
        )
