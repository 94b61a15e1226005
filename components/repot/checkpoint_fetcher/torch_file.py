"""Read the tensors of a PyTorch `.pth` file without PyTorch and without running code from it.

A `.pth` file is a pickle, and loading a pickle can run arbitrary code. The unpickler here accepts
OrderedDict, tensors, parameters and storage types, and rejects a file with any other global. A
small file cannot take much memory: what it announces is compared with its size first.

Layouts, both little-endian:
    legacy (torch < 1.6)  pickles of magic number, protocol 1001, system info, object, storage keys;
                          then, for each key, an int64 count and that many values
    zip (torch >= 1.6)    `<name>/data.pkl`, and one `<name>/data/<key>` per storage
"""

import collections
import io
import math
import os
import pickle
import pickletools
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from repot.errors import CheckpointError

LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_PROTOCOL = 1001
_DTYPES = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "<i1",
    "ByteStorage": "<u1",
    "BoolStorage": "?",
}
_MAX_PICKLE_STEPS = 1_000_000
"""A pickle takes about 40 steps per tensor."""
_PUTS = ("PUT", "BINPUT", "LONG_BINPUT")
_MAX_SHARING = 4
"""Tensors may share values, but copied must not take more than this many times the file's size."""
_STATE_KEYS = ("state_dict", "model_state_dict", "model")

Arrays = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True, slots=True)
class _Storage:
    """A flat array of values that tensors are views of."""

    key: str
    dtype: str
    num_values: int

    @property
    def size_bytes(self) -> int:
        """Size of the values."""
        return self.num_values * np.dtype(self.dtype).itemsize


@dataclass(frozen=True, slots=True)
class _Tensor:
    """A view of a storage; offset and strides count values, not bytes."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read_torch_file(path: Path) -> Arrays:
    """Return the tensors of a state dict by name, in the file's order.

    Args:
        path: A state dict, or a dict with one under `state_dict`, `model_state_dict` or `model`.

    Raises:
        CheckpointError: The file is damaged, refers to other Python objects, or has no tensors.
    """
    try:
        with path.open("rb") as file:
            is_zip = file.read(2) == b"PK"
            file.seek(0)
            contents, values = _read_zip(path) if is_zip else _read_legacy(file)
        tensors = _named_tensors(contents)
        size_bytes = sum(
            abs(math.prod(tensor.shape)) * np.dtype(tensor.storage.dtype).itemsize
            for tensor in tensors.values()
        )
        _check_size(size_bytes, _MAX_SHARING * path.stat().st_size, "tensors")
        return {name: _copy_tensor(name, tensor, values) for name, tensor in tensors.items()}
    except CheckpointError as err:
        raise CheckpointError(f"{path.name}: {err}") from err
    # Loading a damaged pickle can raise any of these.
    except (
        pickle.UnpicklingError,
        zipfile.BadZipFile,
        ArithmeticError,
        AttributeError,
        EOFError,
        LookupError,
        MemoryError,
        OSError,
        TypeError,
        ValueError,
    ) as err:
        raise CheckpointError(
            f"{path.name} must be a PyTorch state dict; it is damaged: {err}."
        ) from err


class _TensorUnpickler(pickle.Unpickler):
    """Builds only dicts, lists, numbers, strings and tensor descriptions.

    Attributes:
        storages: Every storage that the pickle refers to, by key.
    """

    def __init__(self, file: Any) -> None:
        super().__init__(file)
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        """Return the substitute for a global of the pickle.

        It is a new object every time: a pickle could set attributes of a shared one.
        """
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda storage, offset, shape, strides, *_: _Tensor(
                storage, offset, tuple(shape), tuple(strides)
            )
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return lambda tensor, *_: tensor
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        raise CheckpointError(
            f"must hold tensors only; it refers to {module}.{name}. Do not use this file."
        )

    def persistent_load(self, pid: Any) -> _Storage:
        """Return the description of a storage."""
        kind, dtype, key, _, num_values, *view = pid
        if (
            kind != "storage"
            or dtype not in _DTYPES.values()
            or any(part is not None for part in view)
        ):
            raise CheckpointError(
                f"must hold plain storages only; it holds {kind!r} of type {dtype!r}."
            )
        self.storages[str(key)] = _Storage(str(key), dtype, int(num_values))
        return self.storages[str(key)]


def _load(file: BinaryIO) -> tuple[Any, dict[str, _Storage]]:
    """Load one pickle, and return its object and the storages that it refers to.

    Its steps are checked first: a step of 5 bytes can reserve gigabytes for the unpickler's memory.

    Raises:
        CheckpointError: It has too many steps.
    """
    start = file.tell()
    for number, (opcode, argument, _) in enumerate(pickletools.genops(file), start=1):
        if number > _MAX_PICKLE_STEPS or (opcode.name in _PUTS and (argument or 0) > number):
            raise CheckpointError(
                "must hold tensors by name; it holds other objects that take much memory. "
                "Do not use this file."
            )
    file.seek(start)
    unpickler = _TensorUnpickler(file)
    return unpickler.load(), unpickler.storages


def _check_size(size_bytes: int, max_bytes: int, what: str) -> None:
    if size_bytes > max_bytes:
        raise CheckpointError(
            f"its {what} must take at most {max_bytes} bytes for the size of the file; they take "
            f"{size_bytes}. Do not use this file."
        )


def _read_legacy(file: BinaryIO) -> tuple[Any, Mapping[str, npt.NDArray[Any]]]:
    if file.read(len(LEGACY_MAGIC)) != LEGACY_MAGIC or _load(file)[0] != _PROTOCOL:
        raise CheckpointError("must be a PyTorch file; its header is different.")
    if not _load(file)[0]["little_endian"]:
        raise CheckpointError("must be little-endian; it was written on a big-endian machine.")
    contents, storages = _load(file)
    values = {}
    for key in _load(file)[0]:
        storage = storages[key]
        if int.from_bytes(file.read(8), "little") != storage.num_values:
            raise CheckpointError(
                f"storage {key} must hold {storage.num_values} values; its header differs."
            )
        # A forged count must not allocate more memory than the file has bytes.
        max_bytes = os.fstat(file.fileno()).st_size
        values[key] = _to_array(storage, file.read(min(storage.size_bytes, max_bytes)))
    return contents, values


def _read_zip(path: Path) -> tuple[Any, Mapping[str, npt.NDArray[Any]]]:
    max_bytes = path.stat().st_size  # PyTorch compresses nothing
    with zipfile.ZipFile(path) as archive:
        (pickle_name,) = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        folder = pickle_name.removesuffix("/data.pkl")
        _check_size(archive.getinfo(pickle_name).file_size, max_bytes, "description")
        contents, storages = _load(io.BytesIO(archive.read(pickle_name)))
        _check_size(sum(each.size_bytes for each in storages.values()), max_bytes, "values")
        values = {}
        for key, storage in storages.items():
            with archive.open(f"{folder}/data/{key}") as file:
                # One extra byte, to detect a member that is too long.
                values[key] = _to_array(storage, file.read(storage.size_bytes + 1))
        return contents, values


def _named_tensors(contents: Any) -> dict[str, _Tensor]:
    """Return the named tensors of a file's object; ignore other entries, such as the epoch."""
    for key in _STATE_KEYS:
        if isinstance(contents, dict) and isinstance(contents.get(key), dict):
            contents = contents[key]
    tensors = {}
    if isinstance(contents, dict):
        tensors = {
            str(name): value for name, value in contents.items() if isinstance(value, _Tensor)
        }
    if not tensors:
        raise CheckpointError("must hold a state dict (tensors by name); it has no tensors.")
    return tensors


def _to_array(storage: _Storage, data: bytes) -> npt.NDArray[Any]:
    if len(data) != storage.size_bytes:
        raise CheckpointError(
            f"storage {storage.key} must hold {storage.size_bytes} bytes; got {len(data)}."
        )
    return np.frombuffer(data, storage.dtype)


def _copy_tensor(
    name: str, tensor: _Tensor, values: Mapping[str, npt.NDArray[Any]]
) -> npt.NDArray[Any]:
    """Return a contiguous copy of a tensor; reject one that reaches outside its storage."""
    flat = values[tensor.storage.key]
    last = tensor.offset + sum(
        (size - 1) * stride for size, stride in zip(tensor.shape, tensor.strides, strict=True)
    )
    numbers = (tensor.offset, *tensor.shape, *tensor.strides)
    if min(numbers) < 0 or math.prod(tensor.shape) > flat.size or last >= flat.size:
        raise CheckpointError(
            f"tensor {name} must lie inside its storage of {flat.size} values; it does not."
        )
    strides = [stride * flat.itemsize for stride in tensor.strides]
    return np.lib.stride_tricks.as_strided(flat[tensor.offset :], tensor.shape, strides).copy(
        order="C"
    )
