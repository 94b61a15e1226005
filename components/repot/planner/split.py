"""Assign each picture to training or validation by its path alone.

A picture belongs to validation if the hash of its path is below a threshold, so its split does not
change when other pictures are added or removed. There is one exception: if a label would have no
training picture or no validation picture, the picture closest to the threshold is moved. It moves
back once more pictures are added.
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
        pictures: Path (relative to PICTURES, Unicode normal form C) and label of each picture.
        validation_fraction: Expected fraction of validation pictures, in (0, 1).

    Returns:
        Split by path. Every label with at least two pictures has pictures in both splits.
    """
    paths_by_label: dict[str, list[str]] = defaultdict(list)
    for path, label in pictures:
        paths_by_label[label].append(path)
    splits: dict[str, Split] = {}
    for paths in paths_by_label.values():
        splits.update(_split_label(paths, validation_fraction))
    return splits


def path_fraction(path: str) -> float:
    """Return a number in [0, 1) that depends only on the path: the first 8 bytes of its SHA-256."""
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
