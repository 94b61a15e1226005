"""Kubernetes' rules for quantities, names, labels, tolerations and container images.

A cluster rejects a pod that breaks them, or creates one that never fits a node or never finds its
image. Every function returns one error message per problem.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

KubernetesObject = dict[str, Any]
"""An object of the Kubernetes API, or a part of one, as parsed JSON."""

MAX_CPUS = 2048
"""No node has more: the largest of the public clouds have 1920."""
MIN_MEMORY_BYTES = 128 * 2**20
"""Python and TensorFlow do not start in less, so less is a forgotten unit."""
MAX_MEMORY_BYTES = 64 * 2**40
"""No node has more: the largest of the public clouds have 32 TiB."""

# The forms that people write; exponents and u, n are left out.
# https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/
_QUANTITY = re.compile(r"(\d+(?:\.\d+)?)(m|[kMGTPE]|[KMGTPE]i)?", re.ASCII)
_UNITS: dict[str | None, float] = {
    None: 1.0,
    "m": 0.001,
    **{unit: 1000.0**power for power, unit in enumerate("kMGTPE", start=1)},
    **{f"{unit}i": 1024.0**power for power, unit in enumerate("KMGTPE", start=1)},
}

# IsDNS1123Subdomain, IsQualifiedName and IsValidLabelValue of Kubernetes:
# https://github.com/kubernetes/apimachinery/blob/master/pkg/util/validation/validation.go
# https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#syntax-and-character-set
_DNS_LABEL = r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?"
_SUBDOMAIN = re.compile(rf"{_DNS_LABEL}(?:\.{_DNS_LABEL})*")
_SUBDOMAIN_LENGTH = 253
_LABEL_LENGTH = 63
_LABEL_VALUE = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?")

# ValidateTolerations of Kubernetes:
# https://github.com/kubernetes/kubernetes/blob/master/pkg/apis/core/validation/validation.go
_TOLERATION_KEYS = ("key", "operator", "value", "effect", "tolerationSeconds")
_OPERATORS = ("", "Equal", "Exists")  # "" means Equal
_EFFECTS = ("", "NoSchedule", "PreferNoSchedule", "NoExecute")

# https://github.com/distribution/reference/blob/main/reference.go, which container runtimes apply.
# The first component is a host only if it has a dot or a port, or is localhost.
_HOST_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_HOST = (
    rf"(?:(?:{_HOST_LABEL}(?:\.{_HOST_LABEL})+|localhost|\[[0-9A-Fa-f:]+\])(?::[0-9]+)?"
    rf"|{_HOST_LABEL}:[0-9]+)"
)
_PATH_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_IMAGE = re.compile(
    rf"(?P<name>(?:{_HOST}/)?{_PATH_COMPONENT}(?:/{_PATH_COMPONENT})*)"
    r"(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?"
    r"(?:@(?:sha256:[0-9a-f]{64}|sha384:[0-9a-f]{96}|sha512:[0-9a-f]{128}))?"
)
_IMAGE_NAME_LENGTH = 255


def cpu_problems(quantities: Mapping[str, str]) -> list[str]:
    """Check that every value, by its parameter's name, is a number of CPUs that a node can have."""
    # Kubernetes' smallest unit of CPU is one thousandth.
    return [
        f"{name} must be a number of CPUs such as 4, 0.5 or 500m, at least 1m and at most "
        f"{MAX_CPUS}; got {name}={value!r}."
        for name, value in quantities.items()
        if (found := _QUANTITY.fullmatch(value)) is None
        or found[2] not in (None, "m")
        or not 0.001 <= _amount(found) <= MAX_CPUS
    ]


def memory_problems(quantities: Mapping[str, str]) -> list[str]:
    """Check that every value, by its parameter's name, is an amount of memory with its unit.

    Kubernetes reads `16` as 16 bytes and `400m` as 0.4 bytes; such a pod cannot start.
    """
    problems = []
    for name, value in quantities.items():
        found = _QUANTITY.fullmatch(value)
        if found is None:
            problems.append(
                f"{name} must be an amount of memory such as 512Mi or 16Gi; got {name}={value!r}."
            )
        elif not MIN_MEMORY_BYTES <= _amount(found) <= MAX_MEMORY_BYTES:
            problems.append(
                f"{name} must lie in 128Mi..64Ti; got {name}={value!r}, which Kubernetes reads as "
                f"{_amount(found):.15g} bytes. Write the amount with its unit, such as 512Mi or "
                "16Gi."
            )
    return problems


def parse_quantity(quantity: str) -> float:
    """Return the number in a quantity, e.g. 0.5 for "500m" and 1024 for "1Ki".

    Raises:
        ValueError: It has a form that the settings do not accept.
    """
    found = _QUANTITY.fullmatch(quantity)
    if found is None:
        raise ValueError(f"A quantity must be like 4, 500m or 16Gi; got {quantity!r}.")
    return _amount(found)


def is_object_name(text: str, *, max_length: int = _SUBDOMAIN_LENGTH) -> bool:
    """Return whether a text is a DNS subdomain, as names of most kinds of object must be."""
    return len(text) <= max_length and _SUBDOMAIN.fullmatch(text) is not None


def name_problems(names: Mapping[str, str], *, max_length: int = _SUBDOMAIN_LENGTH) -> list[str]:
    """Check that every value, by its parameter's name, is a valid name of a Kubernetes object.

    Args:
        names: The names, by the parameter that holds them.
        max_length: Most characters: 253 for most kinds of object, 63 if the name is also the value
            of a label.
    """
    return [
        f"{name} must be the name of a Kubernetes object: at most {max_length} lower-case letters, "
        f"digits, '-' and '.', with a letter or digit at both ends of each part between dots; "
        f"got {name}={value!r}."
        for name, value in names.items()
        if not is_object_name(value, max_length=max_length)
    ]


def resource_problems(name: str, resource: str) -> list[str]:
    """Check that a parameter is the name of an extended resource, as accelerators are."""
    if "/" in resource and _is_qualified_name(resource):
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
        and not (_is_qualified_name(label) and _LABEL_VALUE.fullmatch(value))
    ]


def toleration_problems(name: str, tolerations: Sequence[Any]) -> list[str]:
    """Check that every item of a parameter is a valid toleration."""
    rules = [(index, each, _broken_rule(each)) for index, each in enumerate(tolerations)]
    return [f"{name}[{index}] must {rule}; got {each!r}." for index, each, rule in rules if rule]


def is_image_reference(text: str) -> bool:
    """Return whether a text is a valid reference of a container image."""
    found = _IMAGE.fullmatch(text)
    return found is not None and len(found["name"]) <= _IMAGE_NAME_LENGTH


def _amount(quantity: re.Match[str]) -> float:
    return float(quantity[1]) * _UNITS[quantity[2]]


def _is_qualified_name(text: str) -> bool:
    """Return whether a text is a valid key of a label or taint: "name" or "domain/name"."""
    prefix, slash, name = text.rpartition("/")
    is_name = bool(name) and _LABEL_VALUE.fullmatch(name) is not None
    return is_name and (not slash or is_object_name(prefix))


def _broken_rule(toleration: Any) -> str:
    """Return the rule that a toleration breaks, as "must ..." continues; "" if it is valid."""
    keys = _TOLERATION_KEYS
    if not isinstance(toleration, dict) or set(toleration) - set(keys):
        return f"be an object with the keys {', '.join(keys)}"
    if not all(isinstance(toleration.get(key, ""), str) for key in keys[:-1]):
        return f"have strings for {', '.join(keys[:-1])}"
    key, operator, value, effect = (toleration.get(key, "") for key in keys[:-1])
    seconds = toleration.get("tolerationSeconds")
    broken_rules = {
        f"have the operator {' or '.join(_OPERATORS[1:])}": operator not in _OPERATORS,
        f"have the effect {', '.join(_EFFECTS[1:])} or none": effect not in _EFFECTS,
        "have a key, or the operator Exists": not key and operator != "Exists",
        "have the key of a taint, such as nvidia.com/gpu": key and not _is_qualified_name(key),
        "have no value with the operator Exists": value and operator == "Exists",
        f"have a value of at most {_LABEL_LENGTH} letters, digits, '-', '_' and '.', with a letter "
        "or digit at both ends": not _LABEL_VALUE.fullmatch(value),
        "have a whole number of tolerationSeconds, without quotes and of at most 64 bits": (
            "tolerationSeconds" in toleration
            and (type(seconds) is not int or not -(2**63) <= seconds < 2**63)
        ),
        "have the effect NoExecute, since it has tolerationSeconds": "tolerationSeconds"
        in toleration
        and effect != "NoExecute",
    }
    return next((rule for rule, is_broken in broken_rules.items() if is_broken), "")
