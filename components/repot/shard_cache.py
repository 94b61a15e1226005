"""Verified local files of a dataset's shards, fetched ahead of their use.

Shards in object storage are downloaded by a few threads in the order in which they will be read,
into a folder that never holds more than a given number of bytes; the least recently used shard
makes room. Local shards are read where they are. Either way a shard's size and CRC32C are compared
with its receipt once for each time that it arrives, before its first record is read.

Nothing here decides what is read or in which order, so results do not depend on when shards arrive.
"""

import itertools
import os
import shutil
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Self, cast

from repot import storage
from repot.composition import (
    Composition,
    composition_name,
    find_composition,
    local_crc32c_hex,
    write_composed,
)
from repot.errors import (
    CorruptShardError,
    RepotError,
    StoppedError,
    UsageError,
    convert_disk_errors,
)
from repot.layout import BASE_NAME, MANIFEST_NAME, RECEIPTS_FOLDER
from repot.manifest import Receipt
from repot.records import frame_positions

NUM_AHEAD = 8
"""Shards that are fetched before they are needed, by as many threads.

Each takes a request, so this hides the latency of the store; together they fill its bandwidth.
"""

STOP_SECONDS = 5.0
"""How long a reader that was asked to stop still waits for a shard, so that its step can finish."""

_POLL_SECONDS = 0.2
_CLOSE_SECONDS = 5.0
_GIB = 2**30


class ShardCache:
    """Verified local files of some shards; a context manager that deletes its copies at the end.

    An error of a shard is raised by the reader that comes to the shard, even if the shard was
    fetched long before. Whoever reads through TensorFlow gets it wrapped in one of TensorFlow's
    errors: the end of the block turns that into the original one.

    Args:
        dataset_uri: Folder of the dataset.
        receipts: Receipts of the shards. A shard's index is its place here.
        max_bytes: Most bytes of downloaded shards on disk; 0 for half of the free space.
        should_stop: Called while a reader waits for a shard.
    """

    def __init__(
        self,
        dataset_uri: str,
        receipts: Iterable[Receipt],
        *,
        max_bytes: int = 0,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self._shards = [
            _Shard(receipt=receipt, uri=storage.join(dataset_uri, receipt.shard))
            for receipt in receipts
        ]
        self._dataset_uri = dataset_uri
        self._is_local = storage.is_local(dataset_uri)
        self._should_stop = should_stop
        self._folder = Path() if self._is_local else Path(tempfile.mkdtemp(prefix="repot-shards-"))
        self._max_bytes = max_bytes or shutil.disk_usage(self._folder).free // 2
        self._num_bytes = 0  # of copies on disk, those that are being downloaded included
        self._changed = threading.Condition()
        self._plans: list[ReadPlan] = []
        self._threads: set[threading.Thread] = set()
        self._clock = itertools.count()
        self._failure: RepotError | None = None
        self._is_closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        # Closing makes waiting readers fail, which is not why the block ended.
        failure = self._failure
        self.close()
        is_wrapped = isinstance(error, Exception) and not isinstance(error, RepotError)
        if failure is not None and is_wrapped:
            raise failure from error

    def close(self) -> None:
        """Cancel what is pending, and delete the copies."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
            threads = list(self._threads)
        deadline = time.monotonic() + _CLOSE_SECONDS
        for thread in threads:
            # A download cannot be interrupted. It ends with the process at the latest.
            thread.join(max(0.0, deadline - time.monotonic()))
        if not self._is_local:
            shutil.rmtree(self._folder, ignore_errors=True)

    def check_room(self, num_bytes: int) -> None:
        """Check that the bound allows shards of `num_bytes` on disk at the same time.

        Raises:
            UsageError: They exceed the bound.
        """
        if not self._is_local and num_bytes > self._max_bytes:
            raise UsageError(
                "shard_cache_gib must be large enough for the shards that are read at the same "
                f"time, {num_bytes / _GIB:.3g} GiB; got {self._max_bytes / _GIB:.3g} GiB. "
                "Raise it, free disk space, or build the dataset with more shards (train_shards)."
            )

    def plan(self, order: Iterable[int]) -> "ReadPlan":
        """Announce which shards a reader will use: their indexes, in the order of first use."""
        return ReadPlan(self, order)

    def _start(self, plan: "ReadPlan") -> None:
        with self._changed:
            self._plans.append(plan)
            self._fetch_ahead()

    def _finish(self, plan: "ReadPlan") -> None:
        for index in list(plan.held):
            plan.release(index)
        with self._changed:
            self._plans.remove(plan)

    def _acquire(self, plan: "ReadPlan", index: int) -> "ShardFile":
        """Return a shard that stays on disk until it is released; wait for it if need be."""
        shard = self._shards[index]
        stop_at: float | None = None
        with self._changed:
            plan.awaited = index
            self._fetch_ahead()
            while shard.state in ("absent", "arriving") and not self._is_closed:
                if stop_at is None and self._should_stop():
                    stop_at = time.monotonic() + STOP_SECONDS
                if stop_at is not None and time.monotonic() >= stop_at:
                    break
                self._changed.wait(_POLL_SECONDS)
            plan.awaited = None
            if shard.state == "failed":
                self._failure = shard.error
                shard.state = "absent"  # the next reader tries again
                raise shard.error or RuntimeError(f"{shard.uri} was not fetched; see above.")
            if shard.state != "present":
                self._failure = StoppedError(
                    f"The training was asked to stop while it waited for {shard.uri}. Start it "
                    "again to resume from its last saved state."
                )
                raise self._failure
            shard.num_users += 1
            if index in plan.upcoming:
                plan.upcoming.remove(index)
            self._fetch_ahead()
        if self._is_local and shard.composition:
            return ShardFile.of_packs(self._dataset_uri, shard.composition)
        return ShardFile(self._path(shard))

    def _release(self, index: int) -> None:
        with self._changed:
            shard = self._shards[index]
            shard.num_users -= 1
            shard.used_at = next(self._clock)
            self._fetch_ahead()

    def _fetch_ahead(self) -> None:
        """Start fetching what comes next, as far as threads and disk space allow."""
        for plan in self._plans:
            for index in list(itertools.islice(plan.upcoming, NUM_AHEAD)):
                shard = self._shards[index]
                if shard.state != "absent" or self._is_closed:
                    continue
                is_awaited = plan.awaited == index
                if len(self._threads) >= NUM_AHEAD and not is_awaited:
                    return
                if not self._make_room(shard, is_awaited=is_awaited):
                    break
                shard.state = "arriving"
                thread = threading.Thread(target=self._fetch, args=(shard,), daemon=True)
                self._threads.add(thread)
                thread.start()

    def _make_room(self, shard: "_Shard", *, is_awaited: bool) -> bool:
        """Evict shards until another one fits, and count its bytes; return whether it fits."""
        if self._is_local:
            return True
        size_bytes = shard.receipt.size_bytes
        coming = [
            index for plan in self._plans for index in itertools.islice(plan.upcoming, NUM_AHEAD)
        ]
        idle = [index for index, each in enumerate(self._shards) if each.is_idle]
        idle.sort(key=lambda index: self._shards[index].used_at)
        evictable = [index for index in idle if index not in coming]
        if is_awaited:
            # Rather than what a reader waits for, fetch again what it needs later.
            evictable += [index for index in reversed(coming) if index in idle]
        for index in evictable:
            if self._num_bytes + size_bytes <= self._max_bytes:
                break
            self._evict(self._shards[index])
        if self._num_bytes + size_bytes > self._max_bytes:
            # What is arriving can be evicted later. If nothing is, several readers hold too much
            # together, and none of them would ever continue.
            is_arriving = any(each.state == "arriving" for each in self._shards)
            if is_arriving or not is_awaited:
                return False
        self._num_bytes += size_bytes
        return True

    def _evict(self, shard: "_Shard") -> None:
        if shard.state == "present":
            self._path(shard).unlink(missing_ok=True)
            self._num_bytes -= shard.receipt.size_bytes
            shard.state = "absent"

    def _fetch(self, shard: "_Shard") -> None:
        """Fetch and verify one shard: the work of one thread."""
        error: RepotError | None = None
        is_present = False
        try:
            path = self._path(shard)
            if self._is_composed(shard):
                self._fetch_composed(shard, path)
            else:
                arrived = None if self._is_local else storage.download(shard.uri, path)
                _verify(shard.uri, path, shard.receipt, arrived)
            is_present = True
        except RepotError as err:
            error = err
        finally:
            with self._changed:
                self._threads.discard(threading.current_thread())
                shard.error, shard.state = error, "present" if is_present else "failed"
                if not is_present and not self._is_local:
                    self._path(shard).unlink(missing_ok=True)
                    self._num_bytes -= shard.receipt.size_bytes
                self._fetch_ahead()
                self._changed.notify_all()

    def _is_composed(self, shard: "_Shard") -> bool:
        """Return whether a shard has no file of its own, after reading its composition."""
        if shard.composition is None and not storage.exists(shard.uri):
            shard.composition = find_composition(self._dataset_uri, shard.receipt.shard)
        return shard.composition is not None

    def _fetch_composed(self, shard: "_Shard", path: Path) -> None:
        """Verify a composed shard; from object storage, write it to a file."""
        composition = cast(Composition, shard.composition)
        try:
            if self._is_local:
                crc32c = local_crc32c_hex(self._dataset_uri, composition)
            else:
                with convert_disk_errors(path), path.open("wb") as file:
                    crc32c = write_composed(self._dataset_uri, composition, file)
        except FileNotFoundError as err:
            raise CorruptShardError(
                f"The packs of {shard.uri} must exist; {err.filename} is missing. "
                f"{_how_to_rebuild(shard.receipt, is_composed=True)}"
            ) from err
        found = composition.size_bytes, crc32c
        if found != (shard.receipt.size_bytes, shard.receipt.crc32c):
            shard.composition = None  # read it again next time
            raise CorruptShardError(
                f"The records of {shard.uri} in its packs must have {shard.receipt.size_bytes} "
                f"bytes with CRC32C {shard.receipt.crc32c}; got {found[0]} bytes with CRC32C "
                f"{crc32c}. {_how_to_rebuild(shard.receipt, is_composed=True)}"
            )

    def _path(self, shard: "_Shard") -> Path:
        if self._is_local:
            return storage.local_path(shard.uri)
        return self._folder / shard.receipt.shard


class ReadPlan:
    """The shards that one reader uses, in the order of first use; a context manager."""

    def __init__(self, cache: ShardCache, order: Iterable[int]) -> None:
        self._cache = cache
        self.upcoming = deque(order)
        self.held: dict[int, ShardFile] = {}
        self.awaited: int | None = None

    def __enter__(self) -> Self:
        self._cache._start(self)
        return self

    def __exit__(self, *_error: object) -> None:
        self._cache._finish(self)

    def open(self, index: int) -> "ShardFile":
        """Return a shard, and keep it until `release`.

        Raises:
            CorruptShardError: Its size or checksum differs from its receipt, or a local shard is
                missing.
            NotFoundError: A remote shard is missing.
            StorageError: It cannot be read.
            StoppedError: `should_stop` returned True, and it did not arrive within STOP_SECONDS.
        """
        if index not in self.held:
            self.held[index] = self._cache._acquire(self, index)
        return self.held[index]

    def is_present(self, index: int) -> bool:
        """Return whether `open` need not wait."""
        return index in self.held or self._cache._shards[index].state == "present"

    def release(self, index: int) -> None:
        """Allow a shard to be evicted."""
        self.held.pop(index).close()
        self._cache._release(index)


class ShardFile:
    """An open shard with random access to its records.

    Args:
        path: Its file.
    """

    def __init__(self, path: Path) -> None:
        self._positions = [(0, *position) for position in frame_positions(path)]
        self._descriptors = [os.open(path, os.O_RDONLY)]

    @classmethod
    def of_packs(cls, dataset_uri: str, composition: Composition) -> Self:
        """Open a composed shard in a local folder."""
        file = cls.__new__(cls)
        file._positions = composition.positions()
        file._descriptors = [
            os.open(storage.join(dataset_uri, pack.name), os.O_RDONLY) for pack in composition.packs
        ]
        return file

    def read(self, record: int) -> bytes:
        """Return the data of a record, a serialized tf.train.Example."""
        index, offset, size_bytes = self._positions[record]
        return os.pread(self._descriptors[index], size_bytes, offset)

    def close(self) -> None:
        """Close the file."""
        for descriptor in self._descriptors:
            os.close(descriptor)


@dataclass(kw_only=True, slots=True)
class _Shard:
    """A shard and where it is; guarded by the cache's lock.

    Attributes:
        receipt, uri: The shard.
        composition: Where its records are, if it is composed.
        state: "present" once it is verified, "failed" until a reader has raised the error.
        error: Why it failed.
        num_users: Readers that hold it.
        used_at: When it was last released, in uses of any shard.
    """

    receipt: Receipt
    uri: str
    composition: Composition | None = None
    state: Literal["absent", "arriving", "present", "failed"] = "absent"
    error: RepotError | None = None
    num_users: int = 0
    used_at: int = -1

    @property
    def is_idle(self) -> bool:
        """Whether it can be evicted."""
        return self.state == "present" and self.num_users == 0


def _verify(uri: str, path: Path, receipt: Receipt, arrived: storage.ObjectInfo | None) -> None:
    """Compare a shard with its receipt.

    Args:
        uri, path: The shard and its local file.
        receipt: What it must be.
        arrived: Size and CRC32C of the bytes that were downloaded; None to read the file.
    """
    expected = receipt.size_bytes, receipt.crc32c
    if arrived is not None and (arrived.size_bytes, arrived.crc32c) == expected:
        return
    if not path.is_file():
        raise CorruptShardError(f"{uri} must exist; it is missing. {_how_to_rebuild(receipt)}")
    # Also for a download that differs: what was stored compressed is decompressed by now.
    size_bytes, crc32c = path.stat().st_size, storage.file_crc32c_hex(path)
    if (size_bytes, crc32c) != expected:
        raise CorruptShardError(
            f"{uri} must have {receipt.size_bytes} bytes with CRC32C {receipt.crc32c}; "
            f"got {size_bytes} bytes with CRC32C {crc32c}. {_how_to_rebuild(receipt)}"
        )


def _how_to_rebuild(receipt: Receipt, *, is_composed: bool = False) -> str:
    # What is damaged may be shared with the dataset that this one was built on.
    names = f"{RECEIPTS_FOLDER}/{receipt.shard}.json, {BASE_NAME} (if any) and {MANIFEST_NAME}"
    shard = composition_name(receipt.shard) if is_composed else "it"
    return (
        f"Delete {shard}, {names} from the dataset folder and run again: only this shard is "
        "rebuilt."
    )
