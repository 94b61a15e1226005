"""Describe a dataset in a few lines, for the terminal and the logs of plan and build shards."""

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence

from repot.errors import join_names
from repot.manifest import Rejection, Split, count_reasons
from repot.picture_result import REASONS

_NUM_EXAMPLES = 2


def describe_dataset(
    class_counts: Mapping[Split, Mapping[str, int]], rejected: Sequence[Rejection]
) -> list[str]:
    """Return one line about pictures and labels, and one per reason for leaving files out.

    Args:
        class_counts: Number of pictures per label, by split.
        rejected: The files that are left out.
    """
    num_by_label: Counter[str] = Counter()
    for counts in class_counts.values():
        num_by_label.update(counts)
    num_pictures = list(num_by_label.values())
    by_split = {split: sum(counts.values()) for split, counts in class_counts.items()}
    test = f", {by_split['test']} for testing" if by_split.get("test") else ""
    pictures = (
        f"{sum(num_pictures)} pictures of {len(num_pictures)} labels, {_per_label(num_pictures)}; "
        f"{by_split['train']} for training, {by_split['validation']} for validation{test}"
    )
    return [
        pictures,
        *(
            f"left out {count}: {REASONS.get(reason, reason)} ({_examples(rejected, reason)})"
            for reason, count in count_reasons(rejected).items()
        ),
    ]


def _per_label(num_pictures: Sequence[int]) -> str:
    """Return how many pictures the labels have, in a few words."""
    fewest, most = min(num_pictures), max(num_pictures)
    if fewest == most:
        return f"{fewest} of each"
    return f"per label {fewest} to {most}, median {statistics.median(num_pictures):g}"


def _examples(rejected: Sequence[Rejection], reason: str) -> str:
    """Return the first files that were rejected for a reason, with details, escaped."""
    return join_names(
        (
            f"{item.path!r}: {_printable(item.detail)}" if item.detail else repr(item.path)
            for item in rejected
            if item.reason == reason
        ),
        _NUM_EXAMPLES,
    )


def _printable(text: str) -> str:
    """Return text that may quote a file name, escaped if it would control the terminal."""
    return text if text.isprintable() else repr(text)
