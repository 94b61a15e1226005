"""Behaviour specific to Google Cloud Storage, on a real server process that emulates its API."""

import os
import urllib.parse
import urllib.request
from pathlib import Path

import pytest

from repot import storage
from repot.errors import AlreadyExistsError
from repot.storage.gcs import client

LARGE_BYTES = (8 << 20) + 1  # One more than the client sends in a single request.


def test_listing_skips_folder_placeholders_and_hidden_objects(gcs: str, gcs_endpoint: str) -> None:
    for name in ("a/", "a/b/", "a/.repot-0.check", ".repot-0.check"):
        put_object(gcs_endpoint, gcs, name)
    info = storage.write_bytes(f"{gcs}/a/.repo", b"")
    assert storage.list_objects(gcs) == [info]
    storage.delete_folder(f"{gcs}/a")
    assert storage.stat(f"{gcs}/a/b/") is None
    assert storage.stat(f"{gcs}/a/.repot-0.check") is None


@pytest.mark.parametrize("size_bytes", [0, 1, LARGE_BYTES - 1, LARGE_BYTES, (16 << 20) + 1])
def test_file_is_unchanged_after_upload_and_download(
    size_bytes: int, gcs: str, tmp_path: Path
) -> None:
    (tmp_path / "source").write_bytes(os.urandom(size_bytes))
    info = storage.upload(tmp_path / "source", f"{gcs}/x")
    assert (info.size_bytes, info.crc32c) == (
        size_bytes,
        storage.file_crc32c_hex(tmp_path / "source"),
    )
    assert storage.stat(f"{gcs}/x") == info
    storage.download(f"{gcs}/x", tmp_path / "a" / "target", version=info.version)
    assert (tmp_path / "a" / "target").read_bytes() == (tmp_path / "source").read_bytes()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["target"]


@pytest.mark.parametrize("size_bytes", [LARGE_BYTES - 1, LARGE_BYTES])
def test_create_only_upload_keeps_an_existing_object(
    size_bytes: int, gcs: str, tmp_path: Path
) -> None:
    (tmp_path / "source").write_bytes(bytes(size_bytes))
    storage.upload(tmp_path / "source", f"{gcs}/x", if_absent=True)
    (tmp_path / "source").write_bytes(b"1" * size_bytes)
    with pytest.raises(AlreadyExistsError):
        storage.upload(tmp_path / "source", f"{gcs}/x", if_absent=True)
    assert storage.read_bytes(f"{gcs}/x") == bytes(size_bytes)


def test_check_writable_leaves_no_object(gcs: str, gcs_endpoint: str) -> None:
    storage.check_writable(f"{gcs}/a/b")
    with urllib.request.urlopen(
        f"{gcs_endpoint}/storage/v1/b/{gcs.removeprefix('gs://')}/o"
    ) as response:
        assert b".repot-" not in response.read()


def test_forked_child_and_parent_do_not_share_a_connection(gcs: str) -> None:
    for name in ("child", "parent"):
        storage.write_text(f"{gcs}/{name}", name)
    parent_client = client.client()
    child = os.fork()
    name = "parent" if child else "child"
    texts = {storage.read_text(f"{gcs}/{name}") for _ in range(20)}
    if child == 0:
        os._exit(0 if texts == {name} and client.client() is not parent_client else 1)
    assert client.client() is parent_client
    assert texts == {name}
    assert os.waitpid(child, 0)[1] == 0


def put_object(
    endpoint: str, bucket_uri: str, name: str, data: bytes = b"", **parameters: str
) -> None:
    """Create an object without repot, as the console's "create folder" does."""
    bucket = bucket_uri.removeprefix("gs://")
    query = urllib.parse.urlencode({"uploadType": "media", "name": name, **parameters})
    request = urllib.request.Request(
        f"{endpoint}/upload/storage/v1/b/{bucket}/o?{query}", data=data, method="POST"
    )
    with urllib.request.urlopen(request) as response:
        assert response.status == 200
