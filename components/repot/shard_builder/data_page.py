"""The data page: one HTML file that shows what a person should know about a dataset.

Like the report, it is self-contained and needs no script. It has at most MAX_PAGE_BYTES of
pictures, whatever the size of the dataset, because Kubeflow's page loads it as a whole.
"""

import base64
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from repot.data_checks import (
    OUTLIER_KINDS,
    CheckedPicture,
    CopyGroup,
    Outlier,
    data_warnings,
)
from repot.manifest import Manifest, count_reasons
from repot.pages import environment
from repot.picture_result import ADVICE, REASONS
from repot.shard_builder.examine import Examined
from repot.work_list import SourcePicture

MAX_PAGE_BYTES = 4 << 20
"""Bytes of all pictures of a page, encoded; text adds about 0.2 MB per 1,000 labels."""

MAX_SAMPLES_PER_LABEL, MAX_SAMPLES, MAX_SAMPLED_LABELS = 6, 240, 480
MAX_GROUPS, MAX_PICTURES_PER_GROUP, MAX_LEAKS, MAX_OUTLIERS = 24, 4, 24, 8
MAX_OPEN_LABELS, LABELS_PER_PART, MAX_OPEN_GROUPS = 12, 48, 6
"""The page shows the first labels and groups; the others are in parts that open one by one."""

_MAX_FILES_NAMED = 10
_THUMBNAIL_SIDE = 128
_BATCH = 32

MakeThumbnails = Callable[[Sequence[SourcePicture], int], Sequence[bytes | None]]
"""Returns JPEGs with sides of at most the given pixels; None for what is no longer readable."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Group:
    """Pictures side by side: how many show the same, and the first of them."""

    num_pictures: int
    pictures: tuple[CheckedPicture, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Reason:
    """Files that were left out for one reason: why, what to do, how many, and the first paths."""

    explanation: str
    advice: str
    num_files: int
    files: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class _OutlierKind:
    """Outliers of one kind: what they are, how many, the threshold, and the first of them."""

    name: str
    num_pictures: int
    threshold: float
    outliers: tuple[Outlier, ...]


def samples_per_label(num_labels: int) -> int:
    """Return how many pictures the page shows of each of the first MAX_SAMPLED_LABELS labels."""
    return max(1, min(MAX_SAMPLES_PER_LABEL, MAX_SAMPLES // max(1, num_labels)))


def render_data_page(
    manifest: Manifest, examined: Examined, make_thumbnails: MakeThumbnails
) -> str:
    """Return the page as HTML; it does not depend on where the dataset is stored."""
    checks = examined.checks
    conflicts, copies = _shorten(checks.conflicts), _shorten(checks.copies)
    leaks = [_Group(num_pictures=len(pair), pictures=pair) for pair in examined.leaks[:MAX_LEAKS]]
    kinds = [
        _OutlierKind(
            name=OUTLIER_KINDS[kind],
            num_pictures=count,
            threshold=next(item.threshold for item in checks.outliers if item.kind == kind),
            outliers=tuple(
                islice((item for item in checks.outliers if item.kind == kind), MAX_OUTLIERS)
            ),
        )
        for kind, count in checks.num_outliers.items()
    ]
    samples = dict(islice(examined.samples.items(), MAX_SAMPLED_LABELS))
    # In the order of their importance: the last ones may find no room.
    wanted = [
        *(picture for group in (*leaks, *conflicts) for picture in group.pictures),
        *(item.picture for kind in kinds for item in kind.outliers),
        *(picture for group in copies for picture in group.pictures),
        *(picture for pictures in samples.values() for picture in pictures),
    ]
    counts = {split: manifest.class_counts(split) for split in manifest.splits}
    return (
        environment()
        .get_template("data.html.j2")
        .render(
            manifest=manifest,
            checks=checks,
            warnings=data_warnings(manifest, checks),
            counts=counts,
            most=max(sum(each[label] for each in counts.values()) for label in manifest.labels),
            reasons=_reasons(manifest),
            leaks=leaks,
            conflicts=conflicts,
            copies=copies,
            outlier_kinds=kinds,
            samples=samples,
            thumbnails=_thumbnails(dict.fromkeys(wanted), examined.sources, make_thumbnails),
            max_open_labels=MAX_OPEN_LABELS,
            labels_per_part=LABELS_PER_PART,
            max_open_groups=MAX_OPEN_GROUPS,
        )
    )


def _shorten(groups: Sequence[CopyGroup]) -> list[_Group]:
    return [
        _Group(num_pictures=group.num_pictures, pictures=group.pictures[:MAX_PICTURES_PER_GROUP])
        for group in groups[:MAX_GROUPS]
    ]


def _reasons(manifest: Manifest) -> list[_Reason]:
    return [
        _Reason(
            explanation=REASONS.get(reason, reason),
            advice=ADVICE.get(reason, ""),
            num_files=count,
            files=tuple(
                islice(
                    (item.path for item in manifest.rejected if item.reason == reason),
                    _MAX_FILES_NAMED,
                )
            ),
        )
        for reason, count in count_reasons(manifest.rejected).items()
    ]


def _thumbnails(
    pictures: Iterable[CheckedPicture],
    sources: Mapping[CheckedPicture, SourcePicture],
    make_thumbnails: MakeThumbnails,
) -> dict[CheckedPicture, str]:
    """Return data URIs of pictures, as many as the page has room for."""
    thumbnails: dict[CheckedPicture, str] = {}
    room = MAX_PAGE_BYTES
    for batch in _batches(pictures):
        jpegs = make_thumbnails([sources[picture] for picture in batch], _THUMBNAIL_SIDE)
        for picture, jpeg in zip(batch, jpegs, strict=True):
            if jpeg is None:
                continue
            text = "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()
            if len(text) > room:
                return thumbnails
            room -= len(text)
            thumbnails[picture] = text
    return thumbnails


def _batches(pictures: Iterable[CheckedPicture]) -> Iterator[list[CheckedPicture]]:
    remaining = iter(pictures)
    while batch := list(islice(remaining, _BATCH)):
        yield batch
