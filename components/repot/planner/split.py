"""Which pictures train and which validate: decided by each picture's path alone.

A picture validates if the hash of its path lies below the threshold, so it stays where it is when others come or go.
Only where that would leave a label without a training or a validation picture, the picture nearest to the threshold's
other side is moved; such a picture goes back when others come.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable

from repot.manifest import Split


def split_pictures(
    pictures: Iterable[tuple[str, str]], validation_fraction: float
) -> dict[str, Split]:
    """Return the split of every picture.

    Args:
        pictures: Path (relative to PICTURES, normal form C) and label of each.
        validation_fraction: Expected share of validation, in (0, 1).

    Returns:
        Splits by path; every label of two or more pictures has one of each.
    """
    paths_by_label: dict[str, list[str]] = defaultdict(list)
    for path, label in pictures:
        paths_by_label[label].append(path)
    splits: dict[str, Split] = {}
    for paths in paths_by_label.values():
        splits.update(_split_label(paths, validation_fraction))
    return splits


def path_fraction(path: str) -> float:
    """Return a number in [0, 1) that depends on nothing but the path: its SHA-256, the first 8 bytes."""
    digest = hashlib.sha256(path.encode(errors="surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def _split_label(paths: list[str], validation_fraction: float) -> dict[str, Split]:
    fractions = {path: path_fraction(path) for path in paths}
    splits: dict[str, Split] = {
        path: "validation" if fraction < validation_fraction else "train"
        for path, fraction in fractions.items()
    }
    ranked = sorted(fractions, key=lambda path: (fractions[path], path))
    if len(ranked) >= 2 and "validation" not in splits.values():
        splits[ranked[0]] = "validation"
    if len(ranked) >= 2 and "train" not in splits.values():
        splits[ranked[-1]] = "train"
    return splits
