"""What a cluster will not run, said before it is asked: rules about values, beyond names and types."""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from repot import storage
from repot.errors import UsageError
from repot.settings import DatasetSettings, GateSettings, TrainingSettings

# https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/
_QUANTITY = re.compile(r"[0-9]+(\.[0-9]+)?(m|k|[KMGTPE]i|[MGTPE])?")
_RESOURCE_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?/[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?")
_TOLERATION_KEYS = ("key", "operator", "value", "effect", "tolerationSeconds")


def cluster_problems(values: Mapping[str, Any]) -> list[str]:
    """Return a sentence for every value that a cluster would refuse, or would accept and silently not obey.

    Args:
        values: Parameters by name, defaults included, in the pipeline's types.
    """
    rules = (_settings, _places, _accelerator, _quantities, _selector, _tolerations)
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
        uri = values.get(name, "")
        if not uri:
            continue
        try:
            is_local = storage.is_local(storage.normalise(uri))
        except UsageError as err:
            yield from (f"{name}: {problem}" for problem in err.problems)
            continue
        if is_local:
            yield (
                f"{name} must be in an object store: a pod cannot see the files of this machine; got {name}={uri!r}. "
                "Copy them to gs://BUCKET/PATH, or use `repot run` here."
            )


def _accelerator(values: Mapping[str, Any]) -> Iterator[str]:
    count, kind = values.get("accelerator_count", "0"), values.get("accelerator_type", "")
    if not count.isdecimal():
        yield f"accelerator_count must be a whole number as text, '0' for none; got accelerator_count={count!r}."
    elif int(count) and not _RESOURCE_NAME.fullmatch(kind):
        yield (
            f"accelerator_type must be a resource name such as nvidia.com/gpu; got accelerator_type={kind!r}. "
            "The model of the GPU is a node label and goes into trainer_node_selector, "
            'e.g. {"cloud.google.com/gke-accelerator": "nvidia-l4"}.'
        )


def _quantities(values: Mapping[str, Any]) -> Iterator[str]:
    for name, value in values.items():
        if name.endswith(("_cpu", "_memory")) and not (_QUANTITY.fullmatch(value) and value.strip("0.")):
            yield f"{name} must be a Kubernetes quantity such as 4, 500m or 16Gi; got {name}={value!r}."


def _selector(values: Mapping[str, Any]) -> Iterator[str]:
    for name, value in values.items():
        if name.endswith("node_selector"):
            wrong = sorted(label for label, text in value.items() if not isinstance(text, str))
            if wrong:
                yield f"{name} must map labels to texts; got other values for {', '.join(wrong)}. Put them in quotes."


def _tolerations(values: Mapping[str, Any]) -> Iterator[str]:
    for name, value in values.items():
        if name.endswith("tolerations"):
            for index, toleration in enumerate(value):
                if not isinstance(toleration, dict) or set(toleration) - set(_TOLERATION_KEYS):
                    yield f"{name}[{index}] must be an object of {', '.join(_TOLERATION_KEYS)}; got {toleration!r}."
