"""How messages name many things in one line."""

from collections.abc import Iterable


def some(names: Iterable[str], limit: int = 10) -> str:
    """Return the first `limit` names, and how many more there are."""
    every = list(names)
    shown = ", ".join(every[:limit])
    return shown if len(every) <= limit else f"{shown} and {len(every) - limit} more"
