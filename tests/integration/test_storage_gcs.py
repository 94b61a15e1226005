"""Objects in Google Cloud Storage, against a real server process that speaks its API."""

import gzip
import os
import unicodedata
import urllib.parse
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from repot import storage
from repot.errors import AlreadyExistsError, ConflictError, NotFoundError, StorageError
from repot.storage import gcs_client

LARGE_BYTES = (8 << 20) + 1  # More than one request may carry.
NAMES = ["a b", "a#b?c", "a%20b", "a%2Fb", "ünï/cöde", "x" * 1024, "..a", "x:y&z=1+2", "'\"\\", "a//b"]


@pytest.mark.parametrize("name", NAMES)
def test_object_of_any_name_is_found_again(name: str, gcs: str) -> None:
    info = storage.write_bytes(f"{gcs}/{name}", b"123456789")
    assert info.uri == f"{gcs}/{name}"
    assert (info.size_bytes, info.crc32c) == (9, "e3069283")  # The check value of CRC-32C.
    assert storage.list_objects(gcs) == [info] == [storage.stat(info.uri)]
    assert storage.read_bytes(info.uri, version=info.version) == b"123456789"
    storage.delete(info.uri)
    assert storage.list_objects(gcs) == []


def test_names_in_two_normal_forms_are_two_objects(gcs: str) -> None:
    for form in ("NFC", "NFD"):
        storage.write_text(f"{gcs}/{unicodedata.normalize(form, 'é')}", form)
    assert [storage.read_text(info.uri) for info in storage.list_objects(gcs)] == ["NFD", "NFC"]


def test_name_that_is_not_utf8_is_refused(gcs: str) -> None:
    with pytest.raises(StorageError, match=r"its name is not UTF-8\. Rename it\."):
        storage.write_bytes(f"{gcs}/\udcff", b"")


def test_listing_is_of_the_folder_only_and_sorted(gcs: str) -> None:
    names = ["a/b", "a/B", "a/c/d", "a/é", "a-b", "ab", "a"]
    for name in names:
        storage.write_bytes(f"{gcs}/{name}", b"")
    assert [info.uri for info in storage.list_objects(f"{gcs}/a")] == [f"{gcs}/a/{x}" for x in ("B", "b", "c/d", "é")]
    assert [storage.relative_name(info.uri, gcs) for info in storage.list_objects(gcs)] == sorted(names)
    assert storage.list_objects(f"{gcs}/none") == []


def test_listing_leaves_out_folder_placeholders_and_passing_objects(gcs: str, gcs_endpoint: str) -> None:
    for name in ("a/", "a/b/", "a/.repot-0.check", ".repot-0.check"):
        put_object(gcs_endpoint, gcs, name)
    info = storage.write_bytes(f"{gcs}/a/.repo", b"")
    assert storage.list_objects(gcs) == [info]
    storage.delete_folder(f"{gcs}/a")
    assert storage.stat(f"{gcs}/a/b/") is None
    assert storage.stat(f"{gcs}/a/.repot-0.check") is None


def test_create_only_write_keeps_what_is_there(gcs: str) -> None:
    storage.write_bytes(f"{gcs}/x", b"first", if_absent=True)
    with pytest.raises(AlreadyExistsError, match=f"{gcs}/x must not exist yet"):
        storage.write_bytes(f"{gcs}/x", b"second", if_absent=True)
    assert storage.read_bytes(f"{gcs}/x") == b"first"


def test_swap_needs_the_generation_that_is_there(gcs: str) -> None:
    first = storage.swap_bytes(f"{gcs}/x", b"1", expected_version=None)
    second = storage.swap_bytes(f"{gcs}/x", b"2", expected_version=first.version)
    for version in (None, first.version):
        with pytest.raises(ConflictError, match=f"{gcs}/x"):
            storage.swap_bytes(f"{gcs}/x", b"3", expected_version=version)
    assert storage.stat(f"{gcs}/x") == second
    assert storage.read_bytes(f"{gcs}/x") == b"2"


def test_read_pinned_to_a_generation_that_is_gone_says_so(gcs: str, tmp_path: Path) -> None:
    info = storage.write_bytes(f"{gcs}/x", b"1")
    storage.write_bytes(f"{gcs}/x", b"2")
    with pytest.raises(NotFoundError, match="changed or deleted since"):
        storage.read_bytes(info.uri, version=info.version)
    with pytest.raises(NotFoundError, match="changed or deleted since"):
        storage.download(info.uri, tmp_path / "x", version=info.version)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("size_bytes", [0, 1, LARGE_BYTES - 1, LARGE_BYTES, (16 << 20) + 1])
def test_file_goes_up_and_down_unchanged(size_bytes: int, gcs: str, tmp_path: Path) -> None:
    (tmp_path / "here").write_bytes(os.urandom(size_bytes))
    info = storage.upload(tmp_path / "here", f"{gcs}/x")
    assert (info.size_bytes, info.crc32c) == (size_bytes, storage.file_crc32c_hex(tmp_path / "here"))
    assert storage.stat(f"{gcs}/x") == info
    storage.download(f"{gcs}/x", tmp_path / "a" / "there", version=info.version)
    assert (tmp_path / "a" / "there").read_bytes() == (tmp_path / "here").read_bytes()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["there"]


@pytest.mark.parametrize("size_bytes", [LARGE_BYTES - 1, LARGE_BYTES])
def test_create_only_upload_keeps_what_is_there(size_bytes: int, gcs: str, tmp_path: Path) -> None:
    (tmp_path / "here").write_bytes(bytes(size_bytes))
    storage.upload(tmp_path / "here", f"{gcs}/x", if_absent=True)
    (tmp_path / "here").write_bytes(b"1" * size_bytes)
    with pytest.raises(AlreadyExistsError):
        storage.upload(tmp_path / "here", f"{gcs}/x", if_absent=True)
    assert storage.read_bytes(f"{gcs}/x") == bytes(size_bytes)


def test_missing_object_is_not_found(gcs: str, tmp_path: Path) -> None:
    assert storage.stat(f"{gcs}/x") is None
    assert not storage.exists(f"{gcs}/x")
    with pytest.raises(NotFoundError, match=f"{gcs}/x cannot be read: there is no such object"):
        storage.read_bytes(f"{gcs}/x")
    with pytest.raises(NotFoundError, match=f"{gcs}/x"):
        storage.copy(f"{gcs}/x", f"{gcs}/y")
    with pytest.raises(NotFoundError):
        storage.download(f"{gcs}/x", tmp_path / "x")
    with pytest.raises(NotFoundError, match=f"{tmp_path}/x"):
        storage.upload(tmp_path / "x", f"{gcs}/x")
    storage.delete(f"{gcs}/x")
    assert list(tmp_path.iterdir()) == []


def test_missing_bucket_is_named(gcs: str) -> None:
    uri = "gs://repot-no-such-bucket/folder/x"
    for act in (storage.check_writable, storage.list_objects, lambda uri: storage.write_bytes(uri, b"")):
        with pytest.raises(StorageError, match=r"there is no bucket gs://repot-no-such-bucket\. Create") as caught:
            act(uri)
        assert not isinstance(caught.value, NotFoundError)
        assert "\n" not in str(caught.value)


def test_check_writable_leaves_nothing(gcs: str, gcs_endpoint: str) -> None:
    storage.check_writable(f"{gcs}/a/b")
    with urllib.request.urlopen(f"{gcs_endpoint}/storage/v1/b/{gcs.removeprefix('gs://')}/o") as answer:
        assert b".repot-" not in answer.read()


def test_folder_goes_up_across_and_down_unchanged(gcs: str, tmp_path: Path) -> None:
    files = {"a.txt": b"a", "b/c d.txt": b"c", "b/e/é.txt": b""}
    for name, data in files.items():
        storage.write_bytes(f"{tmp_path}/here/{name}", data)
    storage.upload_folder(tmp_path / "here", f"{gcs}/up")
    storage.copy_folder(f"{gcs}/up", f"{gcs}/across")
    storage.copy_folder(f"{gcs}/across", f"{tmp_path}/there")
    storage.download_folder(f"{gcs}/across", tmp_path / "there too")
    for folder in (f"{gcs}/across", f"{tmp_path}/there", f"{tmp_path}/there too"):
        found = {storage.relative_name(info.uri, folder): info.uri for info in storage.list_objects(folder)}
        assert {name: storage.read_bytes(uri) for name, uri in found.items()} == files


@pytest.mark.parametrize("name", ["../escaped", "a/../../escaped", "a//b", "./a"])
def test_download_of_a_name_that_is_no_local_path_is_refused(name: str, gcs: str, tmp_path: Path) -> None:
    storage.write_bytes(f"{gcs}/folder/{name}", b"")
    for copy in (storage.download_folder, lambda uri, path: storage.copy_folder(uri, str(path))):
        with pytest.raises(StorageError, match="must have a name that a local file can have"):
            copy(f"{gcs}/folder", tmp_path / "down")
    assert list(tmp_path.iterdir()) == []


def test_object_as_a_local_file_is_gone_afterwards(gcs: str) -> None:
    storage.write_bytes(f"{gcs}/a/x.txt", b"1")
    with storage.as_local_file(f"{gcs}/a/x.txt") as path:
        assert path.name == "x.txt"
        assert path.read_bytes() == b"1"
    assert not path.exists()


def test_threads_share_one_client(gcs: str) -> None:
    with ThreadPoolExecutor(32) as pool:
        infos = list(pool.map(lambda number: storage.write_bytes(f"{gcs}/{number:03d}", b"%d" % number), range(200)))
        data = list(pool.map(lambda info: storage.read_bytes(info.uri, version=info.version), infos))
    assert data == [b"%d" % number for number in range(200)]
    assert storage.list_objects(gcs) == infos


def test_forked_child_and_parent_do_not_share_a_connection(gcs: str) -> None:
    for name in ("child", "parent"):
        storage.write_text(f"{gcs}/{name}", name)
    parents_client = gcs_client.client()
    child = os.fork()
    name = "parent" if child else "child"
    answers = {storage.read_text(f"{gcs}/{name}") for _ in range(20)}
    if child == 0:
        os._exit(0 if answers == {name} and gcs_client.client() is not parents_client else 1)
    assert gcs_client.client() is parents_client
    assert answers == {name}
    assert os.waitpid(child, 0)[1] == 0


def test_object_with_a_content_encoding_comes_as_it_is_stored(gcs: str, gcs_endpoint: str) -> None:
    data = gzip.compress(b"data")
    put_object(gcs_endpoint, gcs, "x", data, contentEncoding="gzip")
    (info,) = storage.list_objects(gcs)
    assert info.crc32c == storage.crc32c_hex(data)
    assert storage.read_bytes(info.uri) == data


def put_object(endpoint: str, bucket_uri: str, name: str, data: bytes = b"", **parameters: str) -> None:
    """Make an object without repot, as the console's "create folder" does."""
    bucket = bucket_uri.removeprefix("gs://")
    query = urllib.parse.urlencode({"uploadType": "media", "name": name, **parameters})
    request = urllib.request.Request(f"{endpoint}/upload/storage/v1/b/{bucket}/o?{query}", data=data, method="POST")
    with urllib.request.urlopen(request) as answer:
        assert answer.status == 200
