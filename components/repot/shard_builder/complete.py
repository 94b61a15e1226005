"""Complete a dataset: account for every file found, then write the manifest, last.

The builder pod that finishes last does it, for it is the one that sees the receipts of all others:
a pod of its own would cost a run twenty seconds. Two that finish at the same moment both see them,
and write the same bytes.
"""

import base64
import dataclasses
import logging
from collections.abc import Mapping, Sequence

import numpy as np

from repot import layout, progress, storage
from repot.data_checks import (
    DataChecks,
    DataLimits,
    data_warnings,
    describe_checks,
    limit_problems,
    read_checks,
)
from repot.dataset_description import describe_dataset
from repot.dataset_plan import DatasetPlan, NewestDataset, Share, read_base, read_plan
from repot.errors import DataError, NotFoundError, join_names
from repot.example_digests import (
    DIGEST_BYTES,
    Digests,
    class_ids_uri,
    digests_uri,
    groups_uri,
    join_digests,
    shard_digests,
    write_class_ids,
    write_digests,
)
from repot.folder_checksums import write_last
from repot.json_record import checked_text, read_record, record_text, write_record
from repot.layout import CHECKS_NAME, DATA_PAGE_NAME, DATASET_PARTS, LABELS_NAME, MANIFEST_NAME
from repot.manifest import (
    SPLITS,
    Exclusion,
    Manifest,
    Receipt,
    Rejection,
    Split,
    count_reasons,
    sum_counts,
)
from repot.memory import return_free_memory
from repot.picture_result import ADVICE, EXEMPT_REASONS, REASONS
from repot.shard_builder.build import build_shards
from repot.shard_builder.data_page import render_data_page, samples_per_label
from repot.shard_builder.examine import examine
from repot.shard_builder.receipts import finished_shards, has_all_receipts
from repot.shard_builder.worker_pool import WorkerPool
from repot.work_list import read_shard_sources

_MAX_FILES_NAMED = 10

_log = logging.getLogger(__name__)


def build_item(item: str) -> Manifest | None:
    """Build the shards of one work item, and complete the dataset if they were the last ones.

    Args:
        item: See `repot.dataset_plan.Share`.

    Returns:
        The manifest of a complete dataset; None if other builders have not finished yet.

    Raises:
        UsageError: `item` is not a work item.
        RepotError: As `build_shards` and `complete_dataset`.
    """
    share = Share.from_item(item)
    dataset_uri = layout.dataset_uri(share.storage_uri, share.dataset_id)
    if storage.exists(storage.join(dataset_uri, MANIFEST_NAME)):
        _log.info("dataset %s exists, nothing to build", share.dataset_id)
    else:
        plan = read_plan(dataset_uri)
        with WorkerPool(dataset_uri) as pool:
            build_shards(dataset_uri, share.select(plan.shard_names), pool=pool)
            if has_all_receipts(dataset_uri, plan):
                return complete_dataset(dataset_uri, limits=share.limits, pool=pool)
        _log.info("other builders have not finished yet; the last one completes the dataset")
        return None
    return complete_dataset(dataset_uri, limits=share.limits)


def complete_dataset(
    dataset_uri: str, *, limits: DataLimits, pool: WorkerPool | None = None
) -> Manifest:
    """Write the manifest of a dataset, after building shards that are missing.

    Args:
        dataset_uri: Folder of a planned dataset.
        limits: What the run accepts.
        pool: The workers to use; they stay open. By default, workers of its own.

    Returns:
        The manifest, also if it existed before.

    Raises:
        DataError: A limit is exceeded, or a label has no usable picture to train on.
        StorageError: Reading or writing failed.
    """
    existing = _read_existing_manifest(dataset_uri)
    checks: DataChecks | None
    if existing is None:
        with WorkerPool(dataset_uri) as own_pool:
            manifest, checks = _complete(dataset_uri, limits, pool or own_pool)
    else:
        manifest, checks = existing, read_checks(dataset_uri)
        _check_rejected_fraction(manifest, limits.max_rejected_fraction)
        _check_labels(manifest)
    for line in describe_dataset(
        {split: manifest.class_counts(split) for split in manifest.splits}, manifest.rejected
    ):
        progress.notice("build shards", line)
    for line in describe_checks(checks) if checks else ():
        progress.notice("build shards", line)
    for warning in data_warnings(manifest, checks):
        progress.notice("build shards", warning, is_warning=True)
    page_uri = storage.join(dataset_uri, DATA_PAGE_NAME)
    if checks:
        progress.notice("build shards", f"all findings, with pictures: {page_uri}")
    if problems := limit_problems(manifest, checks, limits):
        raise DataError("\n".join([*problems, f"See {page_uri}."]))
    return manifest


def _complete(
    dataset_uri: str, limits: DataLimits, pool: WorkerPool
) -> tuple[Manifest, DataChecks]:
    """Build missing shards, examine all pictures, and write everything, the manifest last."""
    plan, receipts = _build_missing(dataset_uri, pool)
    digests = _combine_digests(dataset_uri, receipts)
    exact = _find_copies(dataset_uri, receipts, digests)
    manifest = _combine(plan, receipts, exact)
    _check_rejected_fraction(manifest, limits.max_rejected_fraction)
    _check_labels(manifest)
    # Building is over; comparing needs memory.
    return_free_memory()
    examined = examine(
        dataset_uri,
        plan,
        receipts,
        digests,
        samples_per_label=samples_per_label(len(plan.labels)),
    )
    manifest = dataclasses.replace(
        manifest, excluded=_sort_exclusions([*exact, *examined.excluded])
    )
    page = render_data_page(manifest, examined, pool.thumbnails)
    storage.write_text(storage.join(dataset_uri, DATA_PAGE_NAME), page)
    write_record(storage.join(dataset_uri, CHECKS_NAME), examined.checks)
    for split in manifest.splits:
        write_digests(digests_uri(dataset_uri, split), digests[split])
        write_class_ids(class_ids_uri(dataset_uri, split), examined.class_ids[split])
    groups = _combine_groups(receipts)
    if any(groups):
        write_digests(groups_uri(dataset_uri), groups)
    storage.write_text(
        storage.join(dataset_uri, LABELS_NAME),
        "".join(f"{label}\n" for label in manifest.labels),
    )
    write_last(
        dataset_uri,
        MANIFEST_NAME,
        record_text(manifest),
        parts=DATASET_PARTS,
    )
    _announce_newest(dataset_uri)
    return manifest, examined.checks


def _announce_newest(dataset_uri: str) -> None:
    """Name the dataset as the one to build the next one of its pictures on."""
    base = read_base(dataset_uri)
    if base and base.newest_uri:
        newest = NewestDataset(dataset_uri=dataset_uri)
        storage.write_text(base.newest_uri, checked_text(newest.to_json()))


def _read_existing_manifest(dataset_uri: str) -> Manifest | None:
    try:
        return read_record(storage.join(dataset_uri, MANIFEST_NAME), Manifest)
    except NotFoundError:
        return None


def _build_missing(dataset_uri: str, pool: WorkerPool) -> tuple[DatasetPlan, list[Receipt]]:
    """Return the plan and the receipts of all of its shards, after building missing ones."""
    plan = read_plan(dataset_uri)
    receipts = finished_shards(dataset_uri, plan, plan.shard_names)
    if missing := [name for name in plan.shard_names if name not in receipts]:
        _log.warning("building %d missing shards: %s", len(missing), join_names(missing))
        build_shards(dataset_uri, missing, pool=pool)
        receipts |= finished_shards(dataset_uri, plan, missing)
    if missing := [name for name in plan.shard_names if name not in receipts]:
        raise DataError(
            f"Every shard must have a receipt; {join_names(missing)} in {dataset_uri} have none. "
            "Run again."
        )
    return plan, [receipts[name] for name in plan.shard_names]


def _combine_digests(dataset_uri: str, receipts: Sequence[Receipt]) -> dict[Split, Digests]:
    """Return the digests of the records of each split, in the order of the shards."""
    pieces: dict[Split, list[bytes]] = {split: [] for split in SPLITS}
    for receipt in receipts:
        digests = base64.b64decode(receipt.digests)
        if not digests:  # The shard is empty, or an earlier version built it.
            digests = shard_digests(dataset_uri, receipt).tobytes()
        pieces[receipt.split].append(digests)
    return {split: join_digests(found) for split, found in pieces.items()}


def _combine_groups(receipts: Sequence[Receipt]) -> Digests:
    """Return the group of each training record, in the order of the shards, b"" for none."""
    return join_digests(
        base64.b64decode(receipt.groups) or bytes(DIGEST_BYTES * receipt.num_records)
        for receipt in receipts
        if receipt.split == "train"
    )


def _find_copies(
    dataset_uri: str, receipts: Sequence[Receipt], digests: Mapping[Split, Digests]
) -> list[Exclusion]:
    """Return the records of validation and test that have a copy in train.

    Only an input that states the splits itself can have any, and an object store without CRC32C, in
    which two copies may have different ETags: others are split by content.

    Args:
        dataset_uri: Folder of the dataset, with its work lists.
        receipts: The receipts of all shards, in order.
        digests: The digests of the records of each split.
    """
    excluded = []
    # Not np.isin: it sorts train again for each split, and imports numpy.ma.
    trained = np.sort(digests["train"])
    for split in ("validation", "test"):
        places = np.searchsorted(trained, digests[split])
        numbers = np.flatnonzero(places < len(trained))
        numbers = numbers[trained[places[numbers]] == digests[split][numbers]]
        first = 0
        for receipt in receipts:
            if receipt.split != split:
                continue
            start, end = np.searchsorted(numbers, [first, first + receipt.num_records])
            inside = (numbers[start:end] - first).tolist()
            paths = _record_paths(dataset_uri, receipt) if inside else []
            excluded += [
                Exclusion(
                    split=split,
                    digest=digests[split][first + n].ljust(DIGEST_BYTES, b"\0").hex(),
                    reason="copy_of_training",
                    path=paths[n],
                )
                for n in inside
            ]
            first += receipt.num_records
    return excluded


def _record_paths(dataset_uri: str, receipt: Receipt) -> list[str]:
    """Return the path of the picture of each record of a shard, "" where that is unknown."""
    rejected = {rejection.path for rejection in receipt.rejected}
    pictures = read_shard_sources(dataset_uri, receipt, rejected)
    return [picture.path for picture in pictures] if pictures else [""] * receipt.num_records


def _combine(
    plan: DatasetPlan, shards: Sequence[Receipt], excluded: Sequence[Exclusion]
) -> Manifest:
    rejected = sorted(
        [*plan.rejected, *(rejection for shard in shards for rejection in shard.rejected)],
        key=lambda rejection: rejection.path,
    )
    return Manifest(
        dataset_id=plan.dataset_id,
        pictures_uri=plan.pictures_uri,
        labels=plan.labels,
        settings=plan.settings,
        shards=tuple(
            dataclasses.replace(
                shard,
                class_counts={},
                rejected=(),
                digests="",
                groups="",
                record_bytes="",
                record_crcs="",
            )
            for shard in shards
        ),
        num_found=plan.num_found,
        num_accepted=sum(shard.num_records for shard in shards),
        rejected=tuple(rejected),
        empty_label_folders=plan.empty_label_folders,
        excluded=_sort_exclusions(excluded),
        num_by_label={
            split: dict(
                sorted(sum_counts(s.class_counts for s in shards if s.split == split).items())
            )
            for split in SPLITS
            if any(shard.split == split for shard in shards)
        },
    )


def _sort_exclusions(excluded: Sequence[Exclusion]) -> tuple[Exclusion, ...]:
    return tuple(sorted(excluded, key=lambda item: (item.path, item.digest)))


def _check_rejected_fraction(manifest: Manifest, max_rejected_fraction: float) -> None:
    counted = manifest.counted_rejections(EXEMPT_REASONS)
    num_files = manifest.num_accepted + len(counted)
    if len(counted) <= max_rejected_fraction * num_files:
        return
    shown = counted[:_MAX_FILES_NAMED]
    lines = (
        (
            f"At most {max_rejected_fraction:.1%} of the files may be rejected; "
            f"{len(counted)} of {num_files} are:"
        ),
        *(
            f"  {count} x {reason}: {REASONS[reason]}. {ADVICE[reason]}"
            for reason, count in count_reasons(counted).items()
        ),
        f"The first {len(shown)} are:",
        *(f"  {_describe(rejection)}" for rejection in shown),
        (
            f"Correct or remove them in {manifest.pictures_uri}, or use a larger "
            "--max-rejected-fraction (setting max_rejected_fraction)."
        ),
    )
    raise DataError("\n".join(lines))


def _check_labels(manifest: Manifest) -> None:
    problems = []
    counts = manifest.class_counts("train")
    if untrained := [label for label, count in counts.items() if not count]:
        problems.append(
            "Every label must have a usable picture to train on; all pictures were rejected for "
            f"{join_names(map(repr, untrained))}. {_describe_rejected(manifest, untrained)} "
            "Add usable pictures, or remove the folders."
        )
    problems += [
        f"The {split} split must have a usable picture; all its pictures were rejected. "
        "Add usable pictures."
        for split in manifest.splits
        if not manifest.num_examples(split) and split != "train"
    ]
    if problems:
        raise DataError("\n".join(problems))


def _describe_rejected(manifest: Manifest, labels: Sequence[str]) -> str:
    """Return a sentence with the reasons for the first few rejected files of these labels."""
    files = [_describe(rejection) for rejection in manifest.rejected if rejection.label in labels]
    return f"Rejected: {join_names(files, 3)}."


def _describe(rejection: Rejection) -> str:
    detail = f", {rejection.detail}" if rejection.detail else ""
    return f"{rejection.path} (label {rejection.label}): {rejection.reason}{detail}"
