"""Build the shards of a planned dataset on Apache Beam: on Dataflow, Flink or Spark, or right here.

    shard names -> Reshuffle -> build_shards, as in a pod

Each element of the pipeline has the names of a few shards. Its worker builds them with the
function that a builder pod calls: it skips finished ones, reads the pictures from the storage and
writes each shard, what its pictures look like, and its receipt to the dataset's folder. So the
bytes do not depend on the engine, a repeated element costs a listing, and pods can finish what an
engine began.

This module needs the extra `beam`, here and on every worker of the engine.
"""

import logging
from collections.abc import Iterator, Sequence

import apache_beam
from apache_beam.options.pipeline_options import DebugOptions, PipelineOptions
from apache_beam.runners.runner import PipelineState

from repot.dataset_plan import read_plan
from repot.errors import RepotError
from repot.shard_builder.build import build_shards
from repot.shard_builder.receipts import finished_shards
from repot.shard_builder.worker_pool import WorkerPool

# Each element lists the dataset's folder once, so that the number of listed names stays linear.
_MAX_ELEMENTS = 1024

_log = logging.getLogger(__name__)


def build_shards_on_beam(dataset_uri: str, *, options: Sequence[str]) -> None:
    """Build the shards that have no valid receipt yet; return when all are finished.

    Args:
        dataset_uri: Folder of a planned dataset, at the same location for all workers.
        options: Beam's pipeline options, such as --runner=DataflowRunner. Where they do not say
            otherwise, a worker process of the engine builds one element at a time: a shard keeps
            two processes busy.

    Raises:
        DataError: There is no plan, or a picture was changed or deleted after it was listed.
        RepotError: The pipeline cannot be started, or has failed.
    """
    plan = read_plan(dataset_uri)
    names = plan.shard_names
    finished = finished_shards(dataset_uri, plan, names)
    missing = [name for name in names if name not in finished]
    _log.info("%d of %d shards to build, %d finished", len(missing), len(names), len(finished))
    if not missing:
        return
    per_element = -(-len(missing) // _MAX_ELEMENTS)
    elements = [
        missing[first : first + per_element] for first in range(0, len(missing), per_element)
    ]
    try:
        pipeline = apache_beam.Pipeline(options=_pipeline_options(options))
        (
            pipeline
            | "Shards" >> apache_beam.Create(elements)
            | "Distribute" >> apache_beam.Reshuffle()
            | "Build" >> apache_beam.ParDo(_BuildShards(dataset_uri))
        )
        state = pipeline.run().wait_until_finish()
    except RepotError as err:
        # Beam adds the step to the message.
        raise type(err)(str(err).partition(" [while running")[0]) from err
    except Exception as err:
        raise _failed_pipeline(f"{type(err).__name__}: {err}") from err
    if state != PipelineState.DONE:
        raise _failed_pipeline(f"its state is {state}")


class _BuildShards(apache_beam.DoFn):  # type: ignore[misc]
    """Builds the shards of each element, with one pool of processes for all of them."""

    def __init__(self, dataset_uri: str) -> None:
        super().__init__()
        self._dataset_uri = dataset_uri

    def setup(self) -> None:
        """Prepare a pool; its processes start with the first element."""
        self._pool = WorkerPool(self._dataset_uri, num_decoders=1)

    def process(self, names: Sequence[str]) -> Iterator[int]:
        """Build the shards that are not finished; yield their number."""
        build_shards(self._dataset_uri, names, pool=self._pool)
        yield len(names)

    def teardown(self) -> None:
        """End the processes of the pool."""
        self._pool.close()


def _pipeline_options(flags: Sequence[str]) -> PipelineOptions:
    options = PipelineOptions(list(flags))
    debug = options.view_as(DebugOptions)
    if debug.number_of_worker_harness_threads is None:
        debug.number_of_worker_harness_threads = 1
    return options


def _failed_pipeline(reason: str) -> RepotError:
    # The message of a remote error ends with that of its cause.
    lines = [line.strip() for line in reason.splitlines() if line.strip()]
    return RepotError(
        f"The Beam pipeline must build all shards; it has failed: {lines[-1]} "
        "See its log. Finished shards are kept: correct the cause, and run the same command again."
    )
