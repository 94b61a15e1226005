"""The frozen backbone's features of the pictures of a training, read from the store or computed.

`repot.feature_store` keeps them between trainings. A training reads what is stored, computes the
rest, and stores it in parts, each once it is complete. So a resumed training computes only what is
missing, and the next training with the same pictures and checkpoint computes nothing: it reads no
shard, because a dataset states what its examples are, see `repot.example_digests`.

Each of several workers reads and computes its share, neighbouring examples of a split, and finds
the others' features in the store. Shares depend on nothing but the number of workers, so a worker
that is killed loses at most a part, whoever computes it next.

The features of a picture are computed in batches of a fixed size. On a CPU, they do not depend on
the other pictures in the batch, so it makes no difference which ones were stored, or how many
workers there are.
"""

import hashlib
import logging
import mmap
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from repot import progress, storage
from repot.errors import CorruptShardError, StoppedError, StorageError, TrainingError
from repot.example_digests import Contents
from repot.feature_store import Digests, FeatureKey, Keys, VectorStore, equal_pairs, keys_of
from repot.layout import CLASSES_FOLDER, DIGESTS_FOLDER
from repot.memory import find_memory_limit
from repot.model_spec import View
from repot.preprocessing import decode_jpeg, mirror, view_picture
from repot.trainer.batches import FeatureTable, Pictures
from repot.trainer.strategy import (
    any_worker,
    has_gpu,
    local_replicas,
    run_on_replicas,
    worker_share,
)

BATCH_SIZE = 32
"""Pictures per call of the backbone and replica on a CPU.

It is fixed, because a convolution may choose another algorithm for another size, and so give
features that differ in their last bits.
"""

GPU_BATCH_SIZE = 128
"""Pictures per call of the backbone and GPU, where results may differ in their last bits anyway.
"""

PART_ROWS = (1024, 8192)
"""Least and most vectors per stored part; a 64th of the pictures in between.

With 2048 features, a part has 8 to 64 MB. 1024 pictures take seconds on a GPU and about half a
minute on a CPU: what a killed machine loses.
"""

MAX_MEMORY_SHARE = 1 / 8
"""Share of the memory up to which a table of features is kept there; a larger one is on disk."""

_READ_EXAMPLES = 256  # Examples that are read at a time.

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PictureView:
    """One way to look at a picture.

    Attributes:
        view: See `repot.preprocessing.view_picture`.
        mirrored: Whether left and right are exchanged afterwards.
    """

    view: View
    mirrored: bool = False


CENTRAL = PictureView("central")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Column:
    """One view of all pictures of a split, while its features are computed.

    Attributes:
        view: The view.
        store: Its store.
        table: float32 [num_examples, features]; None for a worker that only stores its share.
        is_filled: bool [num_examples]: which rows were computed, or are in the table.
        unsaved_rows: Rows that were computed and are in no part yet.
        unsaved: Their features, float32 [n, features] each.
    """

    view: PictureView
    store: VectorStore
    table: npt.NDArray[np.float32] | None
    is_filled: npt.NDArray[np.bool_]
    unsaved_rows: list[int] = field(default_factory=list)
    unsaved: list[npt.NDArray[np.float32]] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _SplitColumns:
    """The columns of one split, while their features are computed.

    Attributes:
        name: Name of the split.
        contents: What its examples are.
        columns: The views.
        digests: S32 [num_examples], SHA-256 of the examples; b"" while only the key is known.
    """

    name: str
    contents: Contents
    columns: tuple[_Column, ...]
    digests: Digests


@dataclass(slots=True)
class _Batch:
    """Examples to compute, at most a batch.

    Attributes:
        columns: The columns that miss them.
        rows: Their rows in the tables.
        encoded: Their JPEGs.
    """

    columns: tuple[_Column, ...]
    rows: list[int] = field(default_factory=list)
    encoded: list[bytes] = field(default_factory=list)


class FeatureReader:
    """Returns the features of the pictures of a training.

    Args:
        extractor: keras.Model from pictures to features, with the checkpoint's weights. Read all
            features before they are trained.
        pictures: The pictures of each split.
        contents: (split) -> what its examples are; called when features of the split are read.
        features_uri: Folder of all stored features, see `repot.feature_store`.
        checkpoint_id: Id of the converted checkpoint.
        backbone: Name of the backbone.
        scratch: Folder on a local disk for tables that are large for the memory.
        strategy: tf.distribute.Strategy under which the extractor was built. Each of several
            workers computes its share, on all its replicas.
        should_stop: Called before every batch.
    """

    def __init__(
        self,
        extractor: Any,
        pictures: Mapping[str, Pictures],
        *,
        contents: Callable[[str], Contents],
        features_uri: str,
        checkpoint_id: str,
        backbone: str,
        scratch: Path,
        strategy: Any,
        should_stop: Callable[[], bool],
    ) -> None:
        self._extractor = extractor
        self._pictures = pictures
        self._contents = contents
        self._features_uri = features_uri
        self._checkpoint_id = checkpoint_id
        self._backbone = backbone
        self._scratch = scratch
        self._strategy = strategy
        self._should_stop = should_stop
        self._weights_checksum = _weights_checksum(extractor)
        self._batch_size = local_replicas(strategy) * (GPU_BATCH_SIZE if has_gpu() else BATCH_SIZE)
        self._decode = tf.function(self._decode_views, autograph=False)
        self._infer = tf.function(self._extract, autograph=False)

    def with_extractor(self, extractor: Any, *, backbone: str) -> "FeatureReader":
        """Return a reader of another extractor's features of the same pictures.

        Args:
            extractor: keras.Model from pictures to features.
            backbone: Name of these features in the store.
        """
        return FeatureReader(
            extractor,
            self._pictures,
            contents=self._contents,
            features_uri=self._features_uri,
            checkpoint_id=self._checkpoint_id,
            backbone=backbone,
            scratch=self._scratch,
            strategy=self._strategy,
            should_stop=self._should_stop,
        )

    def read(self, split: str, views: Sequence[PictureView] = (CENTRAL,)) -> list[FeatureTable]:
        """Return the features of a split, one table per view; rows are in the order of the shards.

        A table that is large for the memory is mapped to a file on the local disk, so read its rows
        by index rather than copying it.

        Args:
            split: Name of the split.
            views: The views, all different. Reading several at once decodes each picture once.

        Raises:
            StoppedError: The training was asked to stop; what was computed is kept.
            TrainingError: The local disk has no room for the table.
            ValueError: The backbone has been trained; its features are not the checkpoint's.
        """
        contents = self._contents(split)
        num_features = self._extractor.output.shape[-1]
        tables = [_new_table(len(contents.digests), num_features, self._scratch) for _ in views]
        found = self._compute_share(split, views, tables)
        while True:
            for column, table in zip(found.columns, tables, strict=True):
                column.store.refresh()
                column.store.fill(contents.digests, table, column.is_filled)
                column.store.find_digests(contents.digests, found.digests)
            if all(column.is_filled.all() for column in found.columns):
                break
            # A part is damaged, or another worker could not store its own.
            self._compute_missing(found, slice(0, len(found.digests)))
        _copy_to_equal_examples(found.digests, found.digests != b"", contents.digests)
        return [
            FeatureTable(features=table, labels=contents.class_ids, digests=found.digests)
            for table in tables
        ]

    def compute(self, split: str, views: Sequence[PictureView] = (CENTRAL,)) -> None:
        """Compute and store this worker's share of the features that another worker reads.

        Raises:
            StoppedError, TrainingError, ValueError: As `read`.
        """
        self._compute_share(split, views, [None] * len(views))

    def _compute_share(
        self,
        split: str,
        views: Sequence[PictureView],
        tables: Sequence[npt.NDArray[np.float32] | None],
    ) -> _SplitColumns:
        """Compute this worker's share of what is missing, and wait for the other workers.

        Args:
            split: Name of the split.
            views: The views.
            tables: A table for each view, see `_Column`.
        """
        if _weights_checksum(self._extractor) != self._weights_checksum:
            raise ValueError("Features must be read before the backbone is trained.")
        contents = self._contents(split)
        number = len(contents.digests)
        columns = _SplitColumns(
            name=split,
            contents=contents,
            columns=tuple(
                _Column(
                    view=view,
                    store=self._open_store(view),
                    table=table,
                    is_filled=np.zeros(number, np.bool_),
                )
                for view, table in zip(views, tables, strict=True)
            ),
            digests=np.zeros(number, "S32"),
        )
        try:
            self._compute_missing(columns, worker_share(self._strategy, number))
        except StoppedError:
            any_worker(self._strategy, is_true=True)
            raise
        if any_worker(self._strategy, is_true=False):
            raise _stopped()
        return columns

    def _open_store(self, view: PictureView) -> VectorStore:
        key = FeatureKey(
            checkpoint_id=self._checkpoint_id,
            backbone=self._backbone,
            image_size=self._extractor.input.shape[1],
            view=view.view,
            mirrored=view.mirrored,
            dtype=self._extractor.compute_dtype,
        )
        store = VectorStore(
            storage.join(self._features_uri, key.folder_name),
            num_columns=self._extractor.output.shape[-1],
        )
        store.refresh()
        return store

    def _compute_missing(self, split: _SplitColumns, rows: slice) -> None:
        """Compute and store the features of some rows that are neither here nor stored.

        Stored features are left for `VectorStore.fill`.

        Raises:
            StoppedError: The training was asked to stop; what was computed is stored.
            CorruptShardError: An example is not what the dataset states.
        """
        is_missing = self._find_missing(split, rows)  # bool [columns, num_examples]
        num_rows = rows.stop - rows.start
        part_rows = min(max(len(split.digests) // 64, PART_ROWS[0]), PART_ROWS[1])
        note = f"features of the {split.name} pictures"
        # An example that misses several views is in one batch, one that misses others in another.
        num_done = num_rows - int(is_missing.any(axis=0).sum())
        progress.report("train", num_done, num_rows, unit="pictures", note=note)
        try:
            batches = self._missing_batches(split, is_missing)
            for batch, pictures in _one_ahead(self._decode_batch, batches):
                if self._should_stop():
                    raise _stopped()
                for column in batch.columns:
                    vectors = self._infer(pictures[column.view.view], column.view.mirrored)
                    vectors = vectors.numpy()[: len(batch.rows)]
                    if column.table is not None:
                        column.table[batch.rows] = vectors
                    column.is_filled[batch.rows] = True
                    column.unsaved_rows.extend(batch.rows)
                    column.unsaved.append(vectors)
                    if len(column.unsaved_rows) >= part_rows:
                        self._save_part(column, split.digests)
                num_done += len(batch.rows)
                progress.report("train", num_done, num_rows, unit="pictures", note=note)
        finally:
            for column in split.columns:
                self._save_part(column, split.digests)
        for column in split.columns:
            if column.table is not None:
                _copy_to_equal_examples(column.table, column.is_filled, split.contents.digests)

    def _find_missing(self, split: _SplitColumns, rows: slice) -> npt.NDArray[np.bool_]:
        """Return which of some rows have to be computed for each column: the first of equal ones.

        Returns:
            bool [columns, num_examples].
        """
        keys = split.contents.digests
        is_missing = np.zeros([len(split.columns), len(keys)], np.bool_)
        _, first = np.unique(keys, return_index=True)
        first = first[(first >= rows.start) & (first < rows.stop)]
        for missing, column in zip(is_missing, split.columns, strict=True):
            missing[first] = ~column.is_filled[first]
            missing[first[equal_pairs(column.store.stored_keys(), keys[first])[1]]] = False
        return is_missing

    def _missing_batches(
        self, split: _SplitColumns, is_missing: npt.NDArray[np.bool_]
    ) -> Iterator[_Batch]:
        """Read the examples to compute; yield them grouped by the columns that miss them."""
        waiting: dict[bytes, _Batch] = {}
        numbers = np.flatnonzero(is_missing.any(axis=0))
        examples = self._pictures[split.name].examples.read(numbers).batch(_READ_EXAMPLES)
        first = 0
        for chunk in examples.as_numpy_iterator():
            rows = numbers[first : first + len(chunk["label"])]
            first += len(rows)
            split.digests[rows] = [hashlib.sha256(encoded).digest() for encoded in chunk["encoded"]]
            self._check_examples(split, rows, chunk["label"])
            for row, encoded in zip(rows.tolist(), chunk["encoded"], strict=True):
                missing = is_missing[:, row]
                batch = waiting.setdefault(
                    missing.tobytes(),
                    _Batch(tuple(split.columns[k] for k in np.flatnonzero(missing))),
                )
                batch.rows.append(row)
                batch.encoded.append(encoded)
                if len(batch.rows) == self._batch_size:
                    yield waiting.pop(missing.tobytes())
        yield from waiting.values()

    def _check_examples(self, split: _SplitColumns, rows: Any, class_ids: Any) -> None:
        """Compare examples that were read with what the dataset states of them."""
        contents = split.contents
        is_same = (keys_of(split.digests[rows]) == contents.digests[rows]) & (
            class_ids == contents.class_ids[rows]
        )
        if not is_same.all():
            raise CorruptShardError(
                f"{DIGESTS_FOLDER}/{split.name}.bin and {CLASSES_FOLDER}/{split.name}.bin of a "
                "dataset must state the content and the class of each example in its shards; they "
                f"differ for example {rows[~is_same][0]}. Delete the two files and run again: they "
                "are computed from the shards."
            )

    def _decode_batch(self, batch: _Batch) -> dict[View, Any]:
        """Return the views of a batch: float32 [batch_size, image_size, image_size, 3] each.

        The batch is filled up with repetitions of its last picture.
        """
        views = tuple(dict.fromkeys(column.view.view for column in batch.columns))
        missing = self._batch_size - len(batch.encoded)
        encoded = batch.encoded + batch.encoded[-1:] * missing
        return dict(zip(views, self._decode(tf.constant(encoded), views), strict=True))

    def _decode_views(self, encoded: Any, views: tuple[View, ...]) -> list[Any]:
        image_size = self._extractor.input.shape[1]

        def decode(data: Any) -> list[Any]:
            picture = decode_jpeg(data)
            return [view_picture(picture, image_size, view) for view in views]

        spec = tf.TensorSpec([image_size, image_size, 3], tf.float32)
        pictures: list[Any] = tf.map_fn(
            decode,
            encoded,
            fn_output_signature=[spec] * len(views),
            parallel_iterations=self._batch_size,
        )
        return pictures

    def _extract(self, pictures: Any, mirrored: bool) -> Any:
        """Return the features of a batch, of which each replica of this worker computes a part."""

        def extract(part: Any) -> Any:
            features = self._extractor(mirror(part) if mirrored else part, training=False)
            return tf.cast(features, tf.float32)

        return run_on_replicas(self._strategy, extract, pictures)

    def _save_part(self, column: _Column, digests: Digests) -> None:
        """Store the rows that are in no part yet."""
        if not column.unsaved:
            return
        rows, vectors = np.array(column.unsaved_rows), np.concatenate(column.unsaved)
        column.unsaved_rows.clear()
        column.unsaved.clear()
        try:
            column.store.add(digests[rows], vectors)
        except StorageError as err:
            # The store saves time; a training does not need it.
            _log.warning("the features of %d pictures are not stored: %s", len(rows), err)


def _one_ahead(function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
    """Yield every item with its result, which a thread computes while the one before is used."""
    with ThreadPoolExecutor(1) as pool:
        ahead: tuple[Any, Future[Any]] | None = None
        for item in items:
            current, ahead = ahead, (item, pool.submit(function, item))
            if current is not None:
                yield current[0], current[1].result()
        if ahead is not None:
            yield ahead[0], ahead[1].result()


def _new_table(num_rows: int, num_columns: int, scratch: Path) -> npt.NDArray[np.float32]:
    """Return a float32 array in memory, or in a file if it is large for the memory."""
    size_bytes = 4 * num_rows * num_columns
    if size_bytes <= MAX_MEMORY_SHARE * find_memory_limit().size_bytes:
        # TensorFlow can use memory that begins with a page; NumPy's own does not.
        memory = mmap.mmap(-1, max(size_bytes, 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        return np.frombuffer(memory, np.float32, num_rows * num_columns).reshape(
            num_rows, num_columns
        )
    # The file has no name, so it disappears with the array, however this process ends.
    with tempfile.TemporaryFile(dir=scratch) as file:
        try:
            # Without room on the disk, writing to the map would kill the process later.
            os.posix_fallocate(file.fileno(), 0, size_bytes)
        except OSError as err:
            raise TrainingError(
                f"The disk of {scratch} must have room for the features of {num_rows} pictures, "
                f"{size_bytes / 2**30:.1f} GiB; got {err.strerror}. Free that space, set TMPDIR to "
                "a folder on a larger disk, or use a machine with more memory."
            ) from err
        return np.memmap(file, np.float32, "r+", shape=(num_rows, num_columns))


def _copy_to_equal_examples(
    values: npt.NDArray[Any], is_filled: npt.NDArray[np.bool_], keys: Keys
) -> None:
    """Fill the rows of examples that are equal to one whose row is filled; both are updated."""
    (filled,), (empty,) = np.nonzero(is_filled), np.nonzero(~is_filled)
    filled = filled[np.argsort(keys[filled])]
    sources, targets = equal_pairs(keys[filled], keys[empty])
    values[empty[targets]] = values[filled[sources]]
    is_filled[empty[targets]] = True


def _weights_checksum(model: Any) -> bytes:
    checksum = hashlib.sha256()
    for weight in model.weights:
        checksum.update(np.asarray(weight).tobytes())
    return checksum.digest()


def _stopped() -> StoppedError:
    return StoppedError(
        "The training was asked to stop while it computed features. What it computed is stored. "
        "Start it again to resume from there."
    )
