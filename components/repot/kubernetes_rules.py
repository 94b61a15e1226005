"""Kubernetes' rules for quantities, names, node selectors and tolerations.

A cluster rejects a pod that breaks them, or creates one that never fits a node. Every function
returns one error message per problem.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

KubernetesObject = dict[str, Any]
"""An object of the Kubernetes API, or a part of one, as parsed JSON."""

# https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/
_QUANTITY = re.compile(r"(\d+(\.\d+)?)(m|[kMGTPE]|[KMGTPE]i)?", re.ASCII)
_DNS_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,61}[a-z0-9])?")
_RESOURCE_NAME = re.compile(
    r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?/[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?"
)
# https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#syntax-and-character-set
_LABEL_KEY = re.compile(
    r"([a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?"
)
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?")
_TOLERATION_KEYS = ("key", "operator", "value", "effect", "tolerationSeconds")
_EFFECTS = ("", "NoSchedule", "PreferNoSchedule", "NoExecute")


def quantity_problems(quantities: Mapping[str, str]) -> list[str]:
    """Check that every value, by its parameter's name, is a positive Kubernetes quantity."""
    return [
        f"{name} must be a Kubernetes quantity such as 4, 500m or 16Gi; got {name}={value!r}."
        for name, value in quantities.items()
        if (found := _QUANTITY.fullmatch(value)) is None or not float(found[1])
    ]


def name_problems(names: Mapping[str, str]) -> list[str]:
    """Check that every value, by its parameter's name, is a valid name of a Kubernetes object."""
    return [
        f"{name} must be the name of a Kubernetes object: lower-case letters, digits, '-' and '.'; "
        f"got {name}={value!r}."
        for name, value in names.items()
        if not _DNS_NAME.fullmatch(value)
    ]


def resource_problems(name: str, resource: str) -> list[str]:
    """Check that a parameter is the name of an extended resource, as accelerators are."""
    if _RESOURCE_NAME.fullmatch(resource):
        return []
    problem = (
        f"{name} must be a resource name such as nvidia.com/gpu; got {name}={resource!r}. A GPU "
        "model is a node label and belongs in trainer_node_selector, e.g. "
        '{"cloud.google.com/gke-accelerator": "nvidia-l4"}.'
    )
    return [problem]


def selector_problems(name: str, selector: Mapping[str, Any]) -> list[str]:
    """Check that a parameter maps valid node labels to strings, which JSON's true is not."""
    not_strings = sorted(label for label, value in selector.items() if not isinstance(value, str))
    problem = (
        f"{name} must map labels to strings; got other values for {', '.join(not_strings)}. Put "
        "them in quotes."
    )
    return ([problem] if not_strings else []) + [
        f"{name} must map node labels to their values, e.g. cloud.google.com/gke-accelerator to "
        f"nvidia-l4; got {label!r}: {value!r}."
        for label, value in selector.items()
        if isinstance(value, str)
        and not (_LABEL_KEY.fullmatch(label) and _LABEL_VALUE.fullmatch(value))
    ]


def toleration_problems(name: str, tolerations: Sequence[Any]) -> list[str]:
    """Check that every item of a parameter is a valid toleration."""
    return [
        f"{name}[{index}] must be an object with the keys {', '.join(_TOLERATION_KEYS)}: strings "
        "except for the last, operator Equal or Exists (without a value), effect "
        f"{', '.join(_EFFECTS[1:])} or none; got {toleration!r}."
        for index, toleration in enumerate(tolerations)
        if not _is_toleration(toleration)
    ]


def _is_toleration(value: Any) -> bool:
    if not isinstance(value, dict) or set(value) - set(_TOLERATION_KEYS):
        return False
    if not all(isinstance(value.get(name, ""), str) for name in _TOLERATION_KEYS[:-1]):
        return False
    operator = value.get("operator", "Equal")
    is_matching = (
        bool(value.get("key"))
        if operator == "Equal"
        else operator == "Exists" and not value.get("value")
    )
    return is_matching and value.get("effect", "") in _EFFECTS
