"""Planned shards become files, as many at a time as there are cores; what is done already is left alone."""

import logging
from collections.abc import Sequence

from repot import layout, storage
from repot.dataset_plan import parse_item, read_plan, share_of
from repot.manifest import MANIFEST_NAME
from repot.progress import Meter
from repot.shard_builder.receipts import finished_shards
from repot.shard_builder.worker_pool import build_together, num_cores

_log = logging.getLogger(__name__)


def build_item(item: str, storage_uri: str) -> None:
    """Build the shards of one loop item, unless its data set exists. Raises as `build_shards`, and for a bad item.

    Args:
        item: `<dataset_id>:<share_index>/<num_shares>`.
        storage_uri: Where the pipeline keeps everything.
    """
    share = parse_item(item)
    dataset_uri = layout.dataset_uri(storage_uri, share.dataset_id)
    if storage.exists(storage.join(dataset_uri, MANIFEST_NAME)):
        _log.info("data set %s exists, nothing to build", share.dataset_id)
        return
    shard_names = read_plan(dataset_uri).shard_names
    build_shards(dataset_uri, share_of(shard_names, share.share_index, share.num_shares))


def build_shards(
    dataset_uri: str, shard_names: Sequence[str] | None = None, *, num_processes: int = 0
) -> None:
    """Build those shards that have no valid receipt yet; which ones, when and by how many changes no byte of them.

    Args:
        dataset_uri: A planned data set.
        shard_names: The shards; None for all.
        num_processes: Shards built at a time; 0 for one a core.

    Raises:
        DataError: There is no plan, or a picture was changed or deleted since it was listed.
        StorageError: Something cannot be read or written, retries included.
        RepotError: A process died.
    """
    plan = read_plan(dataset_uri)
    names = plan.shard_names if shard_names is None else list(shard_names)
    finished = finished_shards(plan, names)
    missing = [name for name in names if name not in finished]
    meter = Meter(
        "build shards",
        sum(plan.num_pictures[name] for name in names),
        unit="pictures",
        done=sum(plan.num_pictures[name] for name in finished),
    )
    _log.info("%d of %d shards to build, %d done before", len(missing), len(names), len(finished))
    if missing:
        num_processes = min(num_processes or num_cores(), len(missing))
        build_together(dataset_uri, missing, num_processes=num_processes, meter=meter)
