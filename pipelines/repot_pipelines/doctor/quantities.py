"""Numbers as Kubernetes writes them: 2, "2", "2k", "500m"."""


def whole_number(quantity: str | int) -> int:
    """Return a quantity rounded down."""
    from kubernetes.utils import parse_quantity

    return int(parse_quantity(quantity))
