"""Which shards of a planned dataset are finished: those with a receipt that matches.

A receipt is written after its shard is stored, so a shard with a receipt is complete.
"""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from repot import storage
from repot.composition import composition_name
from repot.dataset_plan import DatasetPlan
from repot.json_record import RecordError, write_record
from repot.layout import RECEIPTS_FOLDER, appearances_name
from repot.manifest import Receipt

_NUM_READERS = 16


def write_receipt(dataset_uri: str, receipt: Receipt) -> None:
    """Write the receipt of a shard that is already stored."""
    write_record(storage.join(dataset_uri, _receipt_name(receipt.shard)), receipt)


def has_all_receipts(dataset_uri: str, plan: DatasetPlan) -> bool:
    """Return whether every shard of a plan has a receipt; the receipts are not read."""
    receipts_uri = storage.join(dataset_uri, RECEIPTS_FOLDER)
    stored = {
        storage.relative_name(info.uri, dataset_uri) for info in storage.list_objects(receipts_uri)
    }
    return all(_receipt_name(name) in stored for name in plan.shard_names)


def finished_shards(
    dataset_uri: str, plan: DatasetPlan, shard_names: Iterable[str]
) -> dict[str, Receipt]:
    """Return the receipts, by shard, of those of `shard_names` that are finished.

    A shard is finished if its file, its receipt and what its pictures look like exist, and the
    receipt matches the size of the file and the number of pictures in the plan. A composition,
    which is written after its packs, stands for the file and the pictures.
    """
    sizes = {
        storage.relative_name(info.uri, dataset_uri): info.size_bytes
        for info in storage.list_objects(dataset_uri)
    }
    stored = [
        name
        for name in shard_names
        if {name, _receipt_name(name), appearances_name(name)} <= sizes.keys()
        or {composition_name(name), _receipt_name(name)} <= sizes.keys()
    ]
    with ThreadPoolExecutor(_NUM_READERS) as readers:
        receipts = list(readers.map(lambda name: _read_receipt(dataset_uri, name), stored))
    return {
        name: receipt
        for name, receipt in zip(stored, receipts, strict=True)
        if receipt and _matches(receipt, name, sizes.get(name, receipt.size_bytes), plan)
    }


def _receipt_name(shard: str) -> str:
    return f"{RECEIPTS_FOLDER}/{shard}.json"


def _read_receipt(dataset_uri: str, shard: str) -> Receipt | None:
    """Return a shard's receipt; None if it is invalid, so that the shard is built again."""
    text = storage.read_text(storage.join(dataset_uri, _receipt_name(shard)))
    try:
        return Receipt.from_text(text)
    except RecordError:
        return None


def _matches(receipt: Receipt, name: str, size_bytes: int, plan: DatasetPlan) -> bool:
    return (
        receipt.shard == name
        and receipt.size_bytes == size_bytes
        and receipt.num_records + len(receipt.rejected) == plan.num_pictures[name]
    )
