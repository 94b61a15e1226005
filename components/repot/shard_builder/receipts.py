"""Which shards of a planned data set are done: those with a receipt that fits the shard and the plan."""

import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from repot import storage
from repot.dataset_plan import DatasetPlan
from repot.manifest import RECEIPTS_FOLDER, Receipt

_NUM_READERS = 16


def write_receipt(dataset_uri: str, receipt: Receipt) -> None:
    """Write a shard's receipt; the shard itself must be there."""
    storage.write_json(
        storage.join(dataset_uri, RECEIPTS_FOLDER, f"{receipt.shard}.json"), receipt.to_json()
    )


def finished_shards(plan: DatasetPlan, shard_names: Iterable[str]) -> dict[str, Receipt]:
    """Return the receipts, by shard, of those of `shard_names` that are done."""
    sizes = {
        storage.relative_name(info.uri, plan.dataset_uri): info.size_bytes
        for info in storage.list_objects(plan.dataset_uri)
    }
    candidates = [
        name for name in shard_names if name in sizes and f"{RECEIPTS_FOLDER}/{name}.json" in sizes
    ]
    with ThreadPoolExecutor(_NUM_READERS) as readers:
        receipts = list(readers.map(lambda name: _read_receipt(plan.dataset_uri, name), candidates))
    return {
        name: receipt
        for name, receipt in zip(candidates, receipts, strict=True)
        if receipt and _fits(receipt, name, sizes[name], plan)
    }


def _read_receipt(dataset_uri: str, name: str) -> Receipt | None:
    """Return the receipt of a shard; None if it is not one, and the shard has to be built again."""
    text = storage.read_text(storage.join(dataset_uri, RECEIPTS_FOLDER, f"{name}.json"))
    try:
        return Receipt.from_json(json.loads(text))
    except (ValueError, TypeError, AttributeError):
        return None


def _fits(receipt: Receipt, name: str, size_bytes: int, plan: DatasetPlan) -> bool:
    num_pictures = receipt.num_records + len(receipt.rejected)
    return (receipt.shard, receipt.size_bytes, num_pictures) == (
        name,
        size_bytes,
        plan.num_pictures[name],
    )
