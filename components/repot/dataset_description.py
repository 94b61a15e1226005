"""Describe a dataset in a few lines, for the terminal and the logs of plan and merge."""

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence

from repot.manifest import Rejection, Split, count_reasons
from repot.pictures import REASONS


def describe_dataset(
    class_counts: Mapping[Split, Mapping[str, int]], rejected: Sequence[Rejection]
) -> list[str]:
    """Return one line about pictures and labels, and one about what was left out, if anything.

    Args:
        class_counts: Number of pictures per label, by split.
        rejected: The files that are left out.
    """
    num_by_label: Counter[str] = Counter()
    for counts in class_counts.values():
        num_by_label.update(counts)
    num_pictures = list(num_by_label.values())
    by_split = {split: sum(counts.values()) for split, counts in class_counts.items()}
    pictures = (
        f"{sum(num_pictures)} pictures of {len(num_pictures)} labels, per label "
        f"{min(num_pictures)} to {max(num_pictures)}, median "
        f"{statistics.median(num_pictures):g}; "
        f"{by_split['train']} for training, {by_split['validation']} for validation"
    )
    lines = [pictures]
    if rejected:
        reasons = "; ".join(
            f"{count} because {REASONS.get(reason, reason)}"
            for reason, count in count_reasons(rejected).items()
        )
        lines.append(f"left out {len(rejected)} of {sum(num_pictures) + len(rejected)}: {reasons}")
    return lines
