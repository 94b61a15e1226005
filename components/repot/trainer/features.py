"""The frozen backbone's features of the pictures of a training, read from the store or computed.

`repot.feature_store` keeps them between trainings. A training reads what is stored, computes the
rest, and stores it in parts, each once it is complete. So a resumed training computes only what is
missing, and the next training with the same pictures and checkpoint computes nothing.

The features of a picture are computed in batches of a fixed size. On a CPU, they do not depend on
the other pictures in the batch, so it makes no difference which ones were stored.
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
from repot.errors import StoppedError, StorageError, TrainingError
from repot.feature_store import Digests, FeatureKey, VectorStore, equal_pairs
from repot.memory import find_memory_limit
from repot.model_spec import View
from repot.preprocessing import decode_jpeg, mirror, view_picture
from repot.trainer.batches import FeatureTable, Pictures
from repot.trainer.strategy import any_worker, worker_index_and_count

BATCH_SIZE = 32
"""Pictures per call of the backbone on a CPU.

It is fixed, because a convolution may choose another algorithm for another size, and so give
features that differ in their last bits.
"""

GPU_BATCH_SIZE = 128
"""Pictures per call of the backbone on a GPU, where results may differ in their last bits anyway.
"""

PART_ROWS = (1024, 8192)
"""Least and most vectors per stored part; a 64th of the pictures in between.

With 2048 features, a part has 8 to 64 MB. 1024 pictures take seconds on a GPU and about half a
minute on a CPU: what a killed machine loses.
"""

MAX_MEMORY_SHARE = 1 / 8
"""Share of the memory up to which a table of features is kept there; a larger one is on disk."""

_READ_EXAMPLES = 256  # Examples that are hashed at a time.

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
    """One view of all pictures of a split, while its table is filled.

    Attributes:
        view: The view.
        store: Its store.
        table: float32 [num_examples, features].
        is_filled: bool [num_examples]: which rows of the table have their features.
        unsaved: Rows that were computed and are in no part yet.
    """

    view: PictureView
    store: VectorStore
    table: npt.NDArray[np.float32]
    is_filled: npt.NDArray[np.bool_]
    unsaved: list[int]


@dataclass(slots=True)
class _Batch:
    """Examples to compute, at most a batch.

    Attributes:
        columns: The columns that miss them.
        rows: Their rows in the tables.
        encoded: Their JPEGs.
        num_known: Examples read since the last batch that need not be computed.
    """

    columns: tuple[_Column, ...]
    rows: list[int] = field(default_factory=list)
    encoded: list[bytes] = field(default_factory=list)
    num_known: int = 0


class FeatureReader:
    """Returns the features of the pictures of a training.

    Args:
        extractor: keras.Model from pictures to features, with the checkpoint's weights. Read all
            features before they are trained.
        pictures: The pictures of each split.
        features_uri: Folder of all stored features, see `repot.feature_store`.
        checkpoint_id: Id of the converted checkpoint.
        backbone: Name of the backbone.
        scratch: Folder on a local disk for tables that are large for the memory.
        strategy: tf.distribute.Strategy. Each of several workers computes its share.
        should_stop: Called before every batch.
    """

    def __init__(
        self,
        extractor: Any,
        pictures: Mapping[str, Pictures],
        *,
        features_uri: str,
        checkpoint_id: str,
        backbone: str,
        scratch: Path,
        strategy: Any,
        should_stop: Callable[[], bool],
    ) -> None:
        self._extractor = extractor
        self._pictures = pictures
        self._features_uri = features_uri
        self._checkpoint_id = checkpoint_id
        self._backbone = backbone
        self._scratch = scratch
        self._strategy = strategy
        self._should_stop = should_stop
        self._weights_checksum = _weights_checksum(extractor)
        has_gpu = bool(tf.config.list_physical_devices("GPU"))
        self._batch_size = GPU_BATCH_SIZE if has_gpu else BATCH_SIZE
        self._decode = tf.function(self._decode_views, autograph=False)
        self._infer = tf.function(self._extract, autograph=False)
        self._can_store = True

    def with_extractor(self, extractor: Any, *, backbone: str) -> "FeatureReader":
        """Return a reader of another extractor's features of the same pictures.

        Args:
            extractor: keras.Model from pictures to features.
            backbone: Name of these features in the store.
        """
        return FeatureReader(
            extractor,
            self._pictures,
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
        if _weights_checksum(self._extractor) != self._weights_checksum:
            raise ValueError("Features must be read before the backbone is trained.")
        pictures = self._pictures[split]
        labels = np.zeros(pictures.num_examples, np.int64)
        digests: Digests = np.zeros(pictures.num_examples, "S32")
        columns = [self._start_column(view, pictures.num_examples) for view in views]
        self._compute_share(split, columns, digests, labels)
        while True:
            for column in columns:
                column.store.refresh()
                column.store.fill(digests, column.table, column.is_filled)
            if all(column.is_filled.all() for column in columns):
                break
            # A part is damaged, or another worker could not store its own.
            self._compute_missing(split, columns, digests, labels)
        return [
            FeatureTable(features=column.table, labels=labels, digests=digests)
            for column in columns
        ]

    def _start_column(self, view: PictureView, num_examples: int) -> _Column:
        num_features = self._extractor.output.shape[-1]
        key = FeatureKey(
            checkpoint_id=self._checkpoint_id,
            backbone=self._backbone,
            image_size=self._extractor.input.shape[1],
            view=view.view,
            mirrored=view.mirrored,
            dtype=self._extractor.compute_dtype,
        )
        column = _Column(
            view=view,
            store=VectorStore(
                storage.join(self._features_uri, key.folder_name), num_columns=num_features
            ),
            table=_new_table(num_examples, num_features, self._scratch),
            is_filled=np.zeros(num_examples, np.bool_),
            unsaved=[],
        )
        column.store.refresh()
        return column

    def _compute_share(
        self,
        split: str,
        columns: Sequence[_Column],
        digests: Digests,
        labels: npt.NDArray[np.int64],
    ) -> None:
        """Compute this worker's share of what is missing, and wait for the other workers."""
        share, num_shares = worker_index_and_count(self._strategy)
        try:
            self._compute_missing(
                split, columns, digests, labels, share=share, num_shares=num_shares
            )
        except StoppedError:
            any_worker(self._strategy, is_true=True)
            raise
        if any_worker(self._strategy, is_true=False):
            raise _stopped()

    def _compute_missing(
        self,
        split: str,
        columns: Sequence[_Column],
        digests: Digests,
        labels: npt.NDArray[np.int64],
        *,
        share: int = 0,
        num_shares: int = 1,
    ) -> None:
        """Read all examples once; compute and store the features that are neither here nor stored.

        Args:
            split: Name of the split.
            columns: The tables to fill. Stored features are left for `VectorStore.fill`.
            digests, labels: Filled with those of the examples.
            share, num_shares: Compute only this one of the shares of the examples.

        Raises:
            StoppedError: The training was asked to stop; what was computed is stored.
        """
        batches = self._missing_batches(
            split, columns, digests, labels, share=share, num_shares=num_shares
        )
        part_rows = min(max(len(labels) // 64, PART_ROWS[0]), PART_ROWS[1])
        num_done = 0
        try:
            for batch, pictures in _one_ahead(self._decode_batch, batches):
                if self._should_stop():
                    raise _stopped()
                rows = batch.rows
                for column in batch.columns:
                    vectors = self._infer(pictures[column.view.view], column.view.mirrored)
                    column.table[rows] = vectors.numpy()[: len(rows)]
                    column.is_filled[rows] = True
                    column.unsaved.extend(rows)
                    if len(column.unsaved) >= part_rows:
                        self._save_part(column, digests)
                num_done += len(rows) + batch.num_known
                note = f"features of the {split} pictures"
                progress.report("train", num_done, len(labels), unit="pictures", note=note)
        finally:
            for column in columns:
                self._save_part(column, digests)
        for column in columns:
            _copy_to_equal_examples(column, digests)

    def _missing_batches(
        self,
        split: str,
        columns: Sequence[_Column],
        digests: Digests,
        labels: npt.NDArray[np.int64],
        *,
        share: int,
        num_shares: int,
    ) -> Iterator[_Batch]:
        """Read all examples; yield those to compute, grouped by the columns that miss them."""
        stored = [column.store.stored_digests() for column in columns]
        scheduled: list[set[bytes]] = [set() for _ in columns]
        waiting: dict[tuple[int, ...], _Batch] = {}
        first = 0
        examples = self._pictures[split].examples.read().batch(_READ_EXAMPLES)
        for chunk in examples.as_numpy_iterator():
            rows = slice(first, first + len(chunk["label"]))
            chunk_digests = [hashlib.sha256(encoded).digest() for encoded in chunk["encoded"]]
            labels[rows], digests[rows] = chunk["label"], chunk_digests
            is_known = [column.is_filled[rows].copy() for column in columns]
            for known, sorted_digests in zip(is_known, stored, strict=True):
                known[equal_pairs(sorted_digests, digests[rows])[1]] = True
            num_known = len(chunk_digests)
            for i, digest in enumerate(chunk_digests):
                missing = tuple(
                    k
                    for k in range(len(columns))
                    if not is_known[k][i]
                    and digest not in scheduled[k]
                    and digest[0] % num_shares == share
                )
                if not missing:
                    continue
                for k in missing:
                    scheduled[k].add(digest)
                batch = waiting.setdefault(missing, _Batch(tuple(columns[k] for k in missing)))
                batch.rows.append(first + i)
                batch.encoded.append(chunk["encoded"][i])
                num_known -= 1
                if len(batch.rows) == self._batch_size:
                    yield waiting.pop(missing)
            yield _Batch((), num_known=num_known)
            first = rows.stop
        yield from waiting.values()

    def _decode_batch(self, batch: _Batch) -> dict[View, Any]:
        """Return the views of a batch: float32 [batch_size, image_size, image_size, 3] each.

        The batch is filled up with repetitions of its last picture.
        """
        if not batch.rows:
            return {}
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
        features = self._extractor(mirror(pictures) if mirrored else pictures, training=False)
        return tf.cast(features, tf.float32)

    def _save_part(self, column: _Column, digests: Digests) -> None:
        """Store the rows that are in no part yet."""
        if not column.unsaved:
            return
        rows = np.array(column.unsaved)
        column.unsaved.clear()
        try:
            column.store.add(digests[rows], column.table[rows])
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


def _copy_to_equal_examples(column: _Column, digests: Digests) -> None:
    """Fill the rows of examples that are equal to one whose features are in the table."""
    (filled,), (empty,) = np.nonzero(column.is_filled), np.nonzero(~column.is_filled)
    filled = filled[np.argsort(digests[filled])]
    sources, targets = equal_pairs(digests[filled], digests[empty])
    column.table[empty[targets]] = column.table[filled[sources]]
    column.is_filled[empty[targets]] = True


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
