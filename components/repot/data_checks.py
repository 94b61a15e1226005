"""checks.json: what the pictures of a dataset show that a person should know before training.

The last builder writes it before the manifest; page and report show it. Datasets of earlier
versions have none.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Self

from repot import storage
from repot.errors import join_names
from repot.json_record import JsonRecord, read_record
from repot.layout import CHECKS_NAME
from repot.manifest import Manifest
from repot.picture_result import EXEMPT_REASONS
from repot.settings import GateSettings

OUTLIER_KINDS = {
    "blank": "one colour all over",
    "nearly_uniform": "hardly any contrast",
    "very_small": "very small",
    "extreme_aspect": "very long and narrow",
    "blurred": "strongly blurred",
}
"""What is unusual about a picture, by the key of its kind."""

FEW_PICTURES = 10
"""A label with fewer pictures gets a warning."""

_MAX_NAMED = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckedPicture(JsonRecord):
    """One picture of a dataset: its path, label and split."""

    path: str
    label: str
    split: str

    def __str__(self) -> str:
        return f"{self.path!r} ({self.label}, {self.split})"


@dataclass(frozen=True, kw_only=True, slots=True)
class CopyGroup(JsonRecord):
    """Pictures that show the same.

    Attributes:
        is_exact: Whether all of them have the same content; otherwise, some are near-copies.
        num_pictures: Number of pictures.
        pictures: The first of them; of each label and split, at least one.
    """

    is_exact: bool
    num_pictures: int
    pictures: tuple[CheckedPicture, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        """Return the labels of the pictures, each once."""
        return tuple(dict.fromkeys(picture.label for picture in self.pictures))


@dataclass(frozen=True, kw_only=True, slots=True)
class Outlier(JsonRecord):
    """An unusual picture.

    Attributes:
        picture: The picture.
        kind: A key of OUTLIER_KINDS.
        measured: What was measured.
        threshold: From where on it is unusual.
    """

    picture: CheckedPicture
    kind: str
    measured: float
    threshold: float


@dataclass(frozen=True, kw_only=True, slots=True)
class DataChecks(JsonRecord):
    """The results of all checks. Lists have the first ones only; numbers count all.

    Attributes:
        num_copies: Pictures that are a copy of another one: of each group, all but one.
        num_exact_copies: Those of them whose content is the same.
        copies: Groups of pictures that show the same and have one label.
        num_conflicts: Groups of pictures that show the same and have several labels.
        conflicts: Such groups.
        num_outliers: Number of outliers by kind.
        outliers: Outliers of every kind.
        formats: Number of pictures by the format of their files.
        sides: The smallest, the median and the largest of the shorter sides, in pixels.
    """

    num_copies: int
    num_exact_copies: int
    copies: tuple[CopyGroup, ...]
    num_conflicts: int
    conflicts: tuple[CopyGroup, ...]
    num_outliers: dict[str, int]
    outliers: tuple[Outlier, ...]
    formats: dict[str, int]
    sides: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class DataLimits:
    """What a run accepts of its pictures; beyond it, it stops before the training.

    They are not part of a dataset: one that was refused can be used with other limits, and nothing
    is built again.

    Attributes:
        max_rejected_fraction: Largest fraction of rejected files, in [0, 1]; files with exempt
            reasons do not count.
        max_leaked_fraction: Largest fraction of validation or test that is excluded, in [0, 1].
        min_pictures_per_label: Smallest number of pictures of a label.
        max_conflicts: Largest number of conflicts; -1 for any number.
    """

    max_rejected_fraction: float = 1.0
    max_leaked_fraction: float = 1.0
    min_pictures_per_label: int = 0
    max_conflicts: int = -1

    @classmethod
    def from_settings(cls, settings: GateSettings) -> Self:
        """Return the limits that a run sets."""
        return cls(**{field.name: getattr(settings, field.name) for field in fields(cls)})


def read_checks(dataset_uri: str) -> DataChecks | None:
    """Return the results of the checks; None for a dataset of an earlier version.

    Raises:
        DataError: The file is invalid.
    """
    uri = storage.join(dataset_uri, CHECKS_NAME)
    return read_record(uri, DataChecks) if storage.exists(uri) else None


def limit_problems(manifest: Manifest, checks: DataChecks | None, limits: DataLimits) -> list[str]:
    """Return one message per limit that a dataset exceeds, except that of rejected files."""
    problems = []
    for split, (count, total) in _leaked(manifest).items():
        if count > limits.max_leaked_fraction * total:
            problems.append(
                f"At most {limits.max_leaked_fraction:.1%} of {split} may be copies of training "
                f"pictures; {count} of {total} are. Remove the copies, see the data page, or use a "
                "larger --max-leaked-fraction (setting max_leaked_fraction)."
            )
    if small := _small_labels(manifest, limits.min_pictures_per_label):
        problems.append(
            f"Every label must have at least {limits.min_pictures_per_label} pictures; "
            f"{join_names(small, _MAX_NAMED)} have fewer. Add pictures, or use a smaller "
            "--min-pictures-per-label (setting min_pictures_per_label)."
        )
    if checks and limits.max_conflicts >= 0 and checks.num_conflicts > limits.max_conflicts:
        problems.append(
            f"At most {limits.max_conflicts} pictures may have several labels; "
            f"{checks.num_conflicts} have: {_name_conflicts(checks.conflicts)}. Keep each under "
            "one label, or use a larger --max-conflicts (setting max_conflicts)."
        )
    return problems


def is_accepted(manifest: Manifest, checks: DataChecks | None, limits: DataLimits) -> bool:
    """Return whether a dataset is within all limits."""
    num_rejected = len(manifest.counted_rejections(EXEMPT_REASONS))
    num_pictures = manifest.num_accepted + num_rejected
    is_within = num_rejected <= limits.max_rejected_fraction * num_pictures
    return is_within and not limit_problems(manifest, checks, limits)


def data_warnings(manifest: Manifest, checks: DataChecks | None) -> list[str]:
    """Return what makes scores uncertain or a model worse, and what to do, one text each."""
    warnings = [
        f"copies of training pictures, not scored: {count} of {total} {split} pictures, "
        + join_names((repr(e.path) for e in manifest.excluded if e.split == split), _MAX_NAMED)
        + ". Keep each picture in one split"
        for split, (count, total) in _leaked(manifest).items()
        if count
    ]
    if checks and checks.num_conflicts:
        times = "once" if checks.num_conflicts == 1 else f"{checks.num_conflicts} times"
        warnings.append(
            f"the same picture under several labels, {times}: {_name_conflicts(checks.conflicts)}. "
            "Keep each under one label"
        )
    if small := _small_labels(manifest, FEW_PICTURES):
        warnings.append(
            f"fewer than {FEW_PICTURES} pictures of {len(small)} of {len(manifest.labels)} labels: "
            f"{join_names(small, _MAX_NAMED)}. Add pictures, or expect low and uncertain scores"
        )
    return warnings


def describe_checks(checks: DataChecks) -> list[str]:
    """Return lines for the terminal about what is unusual but does no harm."""
    lines = []
    if checks.num_copies:
        lines.append(
            f"copies of other pictures: {checks.num_copies}, of which {checks.num_exact_copies} "
            "with the same content"
        )
    lines += [
        f"unusual, {OUTLIER_KINDS.get(kind, kind)}: {count} ({_name_outliers(checks, kind)})"
        for kind, count in checks.num_outliers.items()
    ]
    return lines


def _leaked(manifest: Manifest) -> dict[str, tuple[int, int]]:
    """Return how many records are excluded, and how many there are, by split except train."""
    return {
        split: (
            sum(item.split == split for item in manifest.excluded),
            manifest.num_examples(split),
        )
        for split in manifest.splits
        if split != "train"
    }


def _small_labels(manifest: Manifest, minimum: int) -> list[str]:
    counts = [manifest.class_counts(split) for split in manifest.splits]
    totals = {label: sum(each[label] for each in counts) for label in manifest.labels}
    return [f"{label!r} ({total})" for label, total in totals.items() if total < minimum]


def _name_conflicts(conflicts: Sequence[CopyGroup]) -> str:
    return join_names(
        (" and ".join(map(str, group.pictures[:2])) for group in conflicts), _MAX_NAMED
    )


def _name_outliers(checks: DataChecks, kind: str) -> str:
    paths = (repr(item.picture.path) for item in checks.outliers if item.kind == kind)
    return join_names(paths, _MAX_NAMED)
