"""All shards become a data set: every file found is accounted for, and the manifest is written last."""

import dataclasses
import logging
from collections.abc import Mapping, Sequence

from repot import storage
from repot.dataset_plan import DatasetPlan, read_plan
from repot.errors import DataError, NotFoundError, join_names
from repot.manifest import LABELS_NAME, MANIFEST_NAME, Manifest, Receipt, Rejection, count_reasons
from repot.pictures import EXEMPT_REASONS, REASONS
from repot.shard_builder.build import build_shards
from repot.shard_builder.receipts import finished_shards

_NUM_NAMED = 10

_log = logging.getLogger(__name__)


def merge_dataset(dataset_uri: str, *, max_rejected_fraction: float) -> Manifest:
    """Make the data set exist, building what is missing, and return its manifest.

    Args:
        dataset_uri: A planned data set.
        max_rejected_fraction: Largest share of rejected files, in [0, 1], exempt reasons aside. It is no part of the
            data set: one that was refused comes through with a larger fraction, and nothing is built again.

    Raises:
        DataError: Too many files are rejected, or a label has no good picture to train on.
        StorageError: Something cannot be read or written.
    """
    existing = _read_manifest(dataset_uri)
    manifest = existing or _account(dataset_uri)
    _check_rejected(manifest, max_rejected_fraction)
    _check_labels(manifest)
    if existing is None:
        storage.write_text(
            storage.join(dataset_uri, LABELS_NAME),
            "".join(f"{label}\n" for label in manifest.labels),
        )
        storage.write_json(storage.join(dataset_uri, MANIFEST_NAME), manifest.to_json())
    _log.info(
        "data set %s: %d train, %d validation examples, %d files rejected",
        manifest.dataset_id,
        manifest.num_examples("train"),
        manifest.num_examples("validation"),
        len(manifest.rejected),
    )
    return manifest


def _read_manifest(dataset_uri: str) -> Manifest | None:
    try:
        return Manifest.from_json(storage.read_json(storage.join(dataset_uri, MANIFEST_NAME)))
    except NotFoundError:
        return None


def _account(dataset_uri: str) -> Manifest:
    """Return the manifest of all that was planned, after building what is missing."""
    plan = read_plan(dataset_uri)
    receipts = finished_shards(plan, plan.shard_names)
    if missing := [name for name in plan.shard_names if name not in receipts]:
        _log.warning(
            "%d shards are missing and are built now: %s", len(missing), join_names(missing)
        )
        build_shards(dataset_uri, missing)
        receipts |= finished_shards(plan, missing)
    if missing := [name for name in plan.shard_names if name not in receipts]:
        raise DataError(
            f"Every shard must have a receipt; {join_names(missing)} of {dataset_uri} have none. Run again."
        )
    return _manifest(plan, receipts)


def _manifest(plan: DatasetPlan, receipts: Mapping[str, Receipt]) -> Manifest:
    shards = [receipts[name] for name in plan.shard_names]
    rejected = sorted(
        [*plan.rejected, *(rejection for shard in shards for rejection in shard.rejected)],
        key=lambda rejection: rejection.path,
    )
    return Manifest(
        dataset_id=plan.dataset_id,
        pictures_uri=plan.pictures_uri,
        labels=plan.labels,
        settings=plan.settings,
        shards=tuple(dataclasses.replace(shard, rejected=()) for shard in shards),
        num_found=plan.num_found,
        num_accepted=sum(shard.num_records for shard in shards),
        rejected=tuple(rejected),
    )


def _check_rejected(manifest: Manifest, max_rejected_fraction: float) -> None:
    counted = [
        rejection for rejection in manifest.rejected if rejection.reason not in EXEMPT_REASONS
    ]
    num_files = manifest.num_accepted + len(counted)
    if len(counted) <= max_rejected_fraction * num_files:
        return
    shown = counted[:_NUM_NAMED]
    lines = (
        f"At most {max_rejected_fraction:.1%} of the files may be rejected; {len(counted)} of {num_files} are:",
        *(
            f"  {count} x {reason}: {REASONS[reason]}"
            for reason, count in count_reasons(counted).items()
        ),
        f"The first {len(shown)} are:",
        *(f"  {_describe(rejection)}" for rejection in shown),
        f"Repair or remove them in {manifest.pictures_uri}, or give a larger --max-rejected-fraction.",
    )
    raise DataError("\n".join(lines))


def _describe(rejection: Rejection) -> str:
    detail = f", {rejection.detail}" if rejection.detail else ""
    return f"{rejection.path} (label {rejection.label}): {rejection.reason}{detail}"


def _check_labels(manifest: Manifest) -> None:
    problems = []
    counts = manifest.class_counts("train")
    if untrained := [label for label, count in counts.items() if not count]:
        problems.append(
            "Every label must have a good picture to train on; all are rejected of "
            f"{join_names(untrained)}. {_examples(manifest, untrained)} Add good pictures, or remove the folders."
        )
    if not manifest.num_examples("validation"):
        problems.append(
            "There must be a good picture to validate; all are rejected. Add good pictures."
        )
    if problems:
        raise DataError("\n".join(problems))


def _examples(manifest: Manifest, labels: Sequence[str]) -> str:
    """Return a sentence that says why, for the first few pictures of these labels."""
    lines = [_describe(rejection) for rejection in manifest.rejected if rejection.label in labels]
    return f"They are: {join_names(lines, 3)}."
