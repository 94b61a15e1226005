"""The content of stored bytes, by the object's Content-Encoding."""

import functools
import gzip
import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from repot.errors import ContentEncodingError
from repot.storage import content_encoding
from repot.storage.content_encoding import decode_bytes, decode_file

DATA = b"123456789" * 1000
# Without the time: the ids of tests that run in parallel must be the same in each process.
compress = functools.partial(gzip.compress, mtime=0)
Decode = Callable[[bytes, str | None, str], bytes]
MEMBERS = compress(DATA[:5000]) + compress(DATA[5000:])


def archive() -> bytes:
    """Return a .tar.gz file with one file."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as file:
        file.addfile(tarfile.TarInfo("x"))
    return stream.getvalue()


@pytest.fixture(params=["memory", "file"])
def decode(request: pytest.FixtureRequest, tmp_path: Path) -> Decode:
    """Return a function that decodes in memory or in a file."""

    def in_file(data: bytes, encoding: str | None, uri: str) -> bytes:
        with (tmp_path / "x").open("w+b") as file:
            file.write(data)
            decode_file(file, encoding, uri, tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["x"]
        return (tmp_path / "x").read_bytes()

    return decode_bytes if request.param == "memory" else in_file


@pytest.mark.parametrize(
    ("data", "encoding"),
    [
        (DATA, None),
        (DATA, ""),
        (DATA, "identity"),
        (compress(DATA), "gzip"),
        (compress(DATA), "GZIP"),
        (compress(DATA), "x-gzip"),
        (compress(DATA), "aws-chunked,gzip"),
        (compress(DATA), "gzip, utf-8"),
        (compress(compress(DATA)), "gzip, gzip"),
        (MEMBERS, "gzip"),
        (compress(DATA) + bytes(100), "gzip"),
        # A label that changes no byte, and a label without compression.
        (DATA, "utf-8"),
        (DATA, "base64"),
        (DATA, "aws-chunked"),
        (DATA, "gzip"),
    ],
)
def test_content_is_the_decompressed_data(
    data: bytes, encoding: str | None, decode: Decode
) -> None:
    assert decode(data, encoding, "gs://bucket/x") == DATA


def test_empty_object_with_a_gzip_label_is_empty(decode: Decode) -> None:
    assert decode(b"", "gzip", "gs://bucket/x") == b""
    assert decode(compress(b""), "gzip", "gs://bucket/x") == b""


@pytest.mark.parametrize("name", ["weights.tar.gz", "weights.tgz"])
def test_archive_stays_an_archive(name: str, decode: Decode) -> None:
    data = archive()
    assert decode(data, None, f"gs://bucket/{name}") == data
    # Labelled by its uploader, but not compressed a second time.
    assert decode(data, "gzip", f"gs://bucket/{name}") == data
    assert decode(compress(data), "gzip", f"gs://bucket/{name}") == data


@pytest.mark.parametrize("encoding", ["br", "zstd", "deflate", "compress", "gzip, br"])
def test_other_compression_is_named(encoding: str, decode: Decode) -> None:
    with pytest.raises(ContentEncodingError, match=f"gs://bucket/x must .*'{encoding}'"):
        decode(DATA, encoding, "gs://bucket/x")


@pytest.mark.parametrize(
    "data",
    [compress(DATA)[:-1], compress(DATA)[:12], compress(DATA)[:-8] + bytes(8)],
)
def test_damaged_gzip_data_is_named(data: bytes, decode: Decode) -> None:
    with pytest.raises(ContentEncodingError, match="gs://bucket/x must hold gzip data"):
        decode(data, "gzip", "gs://bucket/x")


def test_content_in_memory_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(content_encoding, "_MAX_BYTES_IN_MEMORY", len(DATA))
    assert decode_bytes(compress(DATA), "gzip", "gs://bucket/x") == DATA
    with pytest.raises(ContentEncodingError, match="at most 9000 bytes after decompression"):
        decode_bytes(compress(DATA + b"0"), "gzip", "gs://bucket/x")
