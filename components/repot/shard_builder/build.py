"""Build the planned shards that are not finished yet, as many at a time as there are cores."""

import logging
from collections.abc import Sequence

from repot import storage
from repot.dataset_plan import read_plan
from repot.progress import ProgressCounter
from repot.shard_builder.receipts import finished_shards
from repot.shard_builder.worker_pool import WorkerPool

_log = logging.getLogger(__name__)


def build_shards(
    dataset_uri: str,
    shard_names: Sequence[str] | None = None,
    *,
    num_processes: int = 0,
    pool: WorkerPool | None = None,
) -> None:
    """Build the shards that have no valid receipt yet.

    The bytes of a shard depend on the plan only, not on which process builds it, nor when.

    Args:
        dataset_uri: Folder of a planned dataset.
        shard_names: The shards to build; None builds all.
        num_processes: Number of shards to build at the same time; 0 uses one process per core.
        pool: The workers to use instead; they stay open.

    Raises:
        DataError: There is no plan, or a picture was changed or deleted after it was listed.
        StorageError: Reading or writing failed, retries included.
        RepotError: A worker process died.
    """
    plan = read_plan(dataset_uri)
    names = plan.shard_names if shard_names is None else list(shard_names)
    finished = finished_shards(dataset_uri, plan, names)
    missing = [name for name in names if name not in finished]
    counter = ProgressCounter(
        "build shards",
        sum(plan.num_pictures[name] for name in names),
        unit="pictures",
        done=sum(plan.num_pictures[name] for name in finished),
    )
    _log.info(
        "%d of %d shards to build, %d already finished", len(missing), len(names), len(finished)
    )
    if missing:
        with WorkerPool(dataset_uri, num_decoders=num_processes) as own_pool:
            with_store = not (storage.is_local(dataset_uri) and storage.is_local(plan.pictures_uri))
            (pool or own_pool).build(missing, counter, with_store=with_store)
