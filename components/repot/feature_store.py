"""Stored features: the vectors that a frozen backbone gives for pictures, kept for later trainings.

    <features_uri>/<FeatureKey.folder_name>/
        <a>-<b>.digests    uint8 [n, 32]: SHA-256 of each example's encoded bytes
        <a>-<b>.vectors    float32, little-endian [n, features]: one vector per example

The two files are a part: a few thousand vectors. <a> and <b> are the first digits of the SHA-256 of
the contents of the two files. So every file verifies itself, no part ever changes, and trainings
that write at the same time cannot damage each other's parts: the same name is the same content. The
digests are written last: without them the part does not exist.

A vector is looked up by its example's key, the first half of the digest, which is what a dataset
knows of its examples without their shards, see `repot.example_digests`.

A damaged part is logged and deleted; its vectors are computed again. The store is a cache: it may
be deleted, in whole or in part, whenever no training runs.
"""

import hashlib
import logging
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from repot import layout, storage
from repot.errors import NotFoundError

FEATURES_VERSION = 1
"""Version of the code between an example's bytes and its features.

Increase it with every change of a view, of the classifier's first layers or of a backbone that
changes features; tests/unit/test_feature_store.py notices most of them.
"""

Digests = npt.NDArray[np.bytes_]
"""SHA-256 digests, S32 [n]; equal length makes NumPy's comparison that of the bytes."""

Keys = npt.NDArray[np.bytes_]
"""First halves of digests, S16 [n]."""

_DIGEST, _KEY = "S32", "S16"
_NO_KEYS = np.empty(0, _KEY)
_CHECKSUM_DIGITS = 32
_DIGESTS_SUFFIX, _VECTORS_SUFFIX = ".digests", ".vectors"
_DIGESTS_NAME = re.compile(
    rf"([0-9a-f]{{{_CHECKSUM_DIGITS}}}-[0-9a-f]{{{_CHECKSUM_DIGITS}}}){re.escape(_DIGESTS_SUFFIX)}"
)
_PART_NAME = re.compile(
    rf"([0-9a-f]{{{_CHECKSUM_DIGITS}}})-([0-9a-f]{{{_CHECKSUM_DIGITS}}})"
    rf"({re.escape(_DIGESTS_SUFFIX)}|{re.escape(_VECTORS_SUFFIX)})"
)
_NUM_THREADS = 4
"""Parts that are read at the same time; each takes the memory of one part."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class FeatureKey:
    """Everything but the picture that its features depend on.

    Attributes:
        checkpoint_id: Id of the converted checkpoint.
        backbone: Name of the backbone.
        image_size: Height and width of its input, in pixels.
        view: A `repot.preprocessing.View`.
        mirrored: Whether left and right are exchanged.
        dtype: Type that the backbone computes with, such as "float32".
    """

    checkpoint_id: str
    backbone: str
    image_size: int
    view: str
    mirrored: bool = False
    dtype: str = "float32"

    @property
    def folder_name(self) -> str:
        """The folder of these features: readable words and a digest of the key."""
        key = (
            self.checkpoint_id,
            self.backbone,
            self.image_size,
            self.view,
            self.mirrored,
            self.dtype,
            FEATURES_VERSION,
        )
        backbone = re.sub(r"[^a-z0-9]+", "_", self.backbone.lower())
        view = f"{self.view}-mirrored" if self.mirrored else self.view
        return f"{backbone}-{self.image_size}-{view}-{layout.content_id(key)}"


@dataclass(frozen=True, slots=True)
class _Part:
    """A stored part.

    Attributes:
        name: Name of its two files without their endings.
        digests: S32 [n], in the order of the vectors.
    """

    name: str
    digests: Digests

    @property
    def keys(self) -> Keys:
        """The keys of the examples, in the same order."""
        return keys_of(self.digests)


class VectorStore:
    """Stored vectors of one folder: the features of one key, or the predictions of one model.

    Args:
        folder_uri: The folder.
        num_columns: Length of a vector.
    """

    def __init__(self, folder_uri: str, *, num_columns: int) -> None:
        self._folder_uri = folder_uri
        self._num_columns = num_columns
        self._parts: list[_Part] = []

    def refresh(self) -> None:
        """Look for parts that were added since the last call, by this process or by others.

        Raises:
            StorageError: The store cannot be read.
        """
        known = {part.name for part in self._parts}
        infos = storage.list_objects(self._folder_uri)
        matches = [
            _DIGESTS_NAME.fullmatch(storage.relative_name(info.uri, self._folder_uri))
            for info in infos
        ]
        names = [match[1] for match in matches if match and match[1] not in known]
        with ThreadPoolExecutor(_NUM_THREADS) as pool:
            self._parts += [part for part in pool.map(self._read_digests, names) if part]

    def stored_keys(self) -> Keys:
        """Return the keys of all examples that have a vector; S16 [n], sorted."""
        return np.unique(np.concatenate([_NO_KEYS, *(part.keys for part in self._parts)]))

    def find_digests(self, keys: Keys, digests: Digests) -> None:
        """Write the digests of the stored examples into an array.

        Args:
            keys: S16 [n]; equal ones are allowed.
            digests: S32 [n]; what is b"" is replaced if the example has a vector.
        """
        (rows,) = np.nonzero(digests == b"")
        rows = rows[np.argsort(keys[rows])]
        sorted_keys = keys[rows]
        for part in self._parts:
            places, sources = equal_pairs(sorted_keys, part.keys)
            digests[rows[places]] = part.digests[sources]

    def fill(
        self, keys: Keys, table: npt.NDArray[np.float32], is_filled: npt.NDArray[np.bool_]
    ) -> None:
        """Write the stored vectors of some examples into a table.

        Only parts that hold one of the examples are read. Damaged ones are logged and deleted;
        their rows are not filled.

        Args:
            keys: S16 [n]; equal ones are allowed.
            table: float32 [n, features].
            is_filled: bool [n]: which rows have their vector; updated. Others are left alone.

        Raises:
            StorageError: The store cannot be read.
        """
        (rows,) = np.nonzero(~is_filled)
        rows = rows[np.argsort(keys[rows])]
        sorted_keys = keys[rows]
        parts = []  # (part, rows of the table, rows of the part)
        for part in self._parts:
            places, sources = equal_pairs(sorted_keys, part.keys)
            is_new = ~is_filled[rows[places]]
            targets = rows[places[is_new]]
            if len(targets):
                is_filled[targets] = True
                parts.append((part, targets, sources[is_new]))
        with ThreadPoolExecutor(_NUM_THREADS) as pool:
            for start in range(0, len(parts), _NUM_THREADS):
                group = parts[start : start + _NUM_THREADS]
                contents = pool.map(self._read_vectors, [part for part, _, _ in group])
                for (part, targets, sources), vectors in zip(group, contents, strict=True):
                    if vectors is None:
                        is_filled[targets] = False
                        self._parts.remove(part)
                    else:
                        table[targets] = vectors[sources]

    def add(self, digests: Digests, vectors: npt.NDArray[np.float32]) -> None:
        """Store the vectors of some examples as one part.

        Args:
            digests: S32 [n].
            vectors: float32 [n, features].

        Raises:
            StorageError: The part cannot be written.
        """
        content, data = digests.tobytes(), np.asarray(vectors, "<f4").tobytes()
        name = f"{_checksum(content)}-{_checksum(data)}"
        storage.write_bytes(self._uri(name, _VECTORS_SUFFIX), data)
        storage.write_bytes(self._uri(name, _DIGESTS_SUFFIX), content)

    def _read_digests(self, name: str) -> _Part | None:
        data = self._read_verified(name, _DIGESTS_SUFFIX)
        return None if data is None else _Part(name, np.frombuffer(data, _DIGEST))

    def _read_vectors(self, part: _Part) -> npt.NDArray[np.float32] | None:
        data = self._read_verified(part.name, _VECTORS_SUFFIX)
        if data is None:
            return None
        return np.frombuffer(data, "<f4").reshape(len(part.digests), self._num_columns)

    def _read_verified(self, name: str, suffix: str) -> bytes | None:
        """Return the content of a file, or delete its part and return None if it is damaged."""
        uri = self._uri(name, suffix)
        checksums = dict(zip((_DIGESTS_SUFFIX, _VECTORS_SUFFIX), name.split("-"), strict=True))
        try:
            data = storage.read_bytes(uri)
        except NotFoundError:
            problem = "is missing"
        else:
            if _checksum(data) == checksums[suffix]:
                return data
            problem = f"is damaged: its {len(data)} bytes do not have the checksum in its name"
        _log.warning("%s %s; its vectors are computed again", uri, problem)
        for each in checksums:  # the digests first: without them the part does not exist
            storage.delete(self._uri(name, each))
        return None

    def _uri(self, name: str, suffix: str) -> str:
        return storage.join(self._folder_uri, name + suffix)


def part_checksum(name: str) -> str:
    """Return the first digits of the SHA-256 of a file of a store, from its name; "" if none."""
    found = _PART_NAME.fullmatch(name)
    if not found:
        return ""
    return found[1] if found[3] == _DIGESTS_SUFFIX else found[2]


def read_keys(folder_uri: str, part: str) -> Keys:
    """Return the keys of the examples in a part, unverified.

    Args:
        folder_uri: The folder of the part.
        part: What the names of its two files have in common.

    Raises:
        NotFoundError: The part does not exist.
    """
    data = storage.read_bytes(storage.join(folder_uri, part + _DIGESTS_SUFFIX))
    return keys_of(np.frombuffer(data[: len(data) // 32 * 32], _DIGEST))


def part_files(part: str) -> tuple[str, str]:
    """Return the names of the two files of a part, the one that completes it first."""
    return part + _DIGESTS_SUFFIX, part + _VECTORS_SUFFIX


def keys_of(digests: Digests) -> Keys:
    """Return the first halves of digests."""
    return digests.astype(_KEY)


def equal_pairs(
    sorted_digests: Digests, digests: Digests
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Return all pairs of indices (i, j) with sorted_digests[i] == digests[j], as two arrays.

    Args:
        sorted_digests: Digests or keys [m], sorted; equal ones are allowed.
        digests: The same [n], in any order.
    """
    first = np.searchsorted(sorted_digests, digests, "left")
    counts = np.searchsorted(sorted_digests, digests, "right") - first
    sources = np.repeat(np.arange(len(digests)), counts)
    # 0, 1, ... within the equal digests of each source
    steps = np.arange(len(sources)) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.repeat(first, counts) + steps, sources


def _checksum(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:_CHECKSUM_DIGITS]
