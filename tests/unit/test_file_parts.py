import zlib
from pathlib import Path

import pytest

from repot import storage
from repot.errors import DataError
from repot.file_parts import FilePart, read_part


def _deflate(data: bytes) -> bytes:
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return deflater.compress(data) + deflater.flush()


@pytest.fixture(params=["local", "gcs", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return a local folder, or a bucket."""
    return str(tmp_path if request.param == "local" else request.getfixturevalue(request.param))


def test_stored_and_deflated_parts_are_read_by_range(folder: str) -> None:
    content = b"a picture" * 100
    packed = _deflate(content)
    info = storage.write_bytes(f"{folder}/x", b"head" + content + packed + b"tail")
    for part in (
        FilePart(offset=4, num_bytes=len(content)),
        FilePart(offset=4 + len(content), num_bytes=len(packed), method="deflated"),
    ):
        assert read_part(info.uri, part, size_bytes=900, version=info.version) == content


def test_empty_part_is_read_without_a_request() -> None:
    assert read_part("/missing", FilePart(offset=1, num_bytes=0), size_bytes=0) == b""


@pytest.mark.parametrize(
    ("data", "part"),
    [
        (b"1234", FilePart(offset=2, num_bytes=9)),
        (_deflate(b"1234567890"), FilePart(offset=0, num_bytes=12, method="deflated")),
        (_deflate(bytes(1 << 20)), FilePart(offset=0, num_bytes=1034, method="deflated")),
        (b"not deflated", FilePart(offset=0, num_bytes=12, method="deflated")),
    ],
)
def test_part_of_another_size_is_an_error(data: bytes, part: FilePart, tmp_path: Path) -> None:
    storage.write_bytes(f"{tmp_path}/x", data)
    with pytest.raises(DataError, match=f"{tmp_path}/x must have a file of 9 bytes at byte"):
        read_part(f"{tmp_path}/x", part, size_bytes=9)
