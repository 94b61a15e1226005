"""Objects in buckets, on real server processes that emulate Google Cloud Storage and Amazon S3."""

import dataclasses
import threading
import time
import unicodedata
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from repot import storage
from repot.errors import AlreadyExistsError, ConflictError, NotFoundError, StorageError
from repot.storage import retries
from repot.storage.gcs import client as gcs_client
from repot.storage.s3 import client as s3_client
from tests.integration.faulty_proxy import (
    Fault,
    FaultyProxy,
    Response,
    drop_connection,
    flip_bit,
    run_proxy,
    truncate,
)

NAMES = [
    "a b",
    "a#b?c",
    "a%20b",
    "a%2Fb",
    "ünï/cöde",
    "x" * 1024,
    "..a",
    "x:y&z=1+2",
    "'\"\\",
    "a//b",
]


@pytest.fixture(params=["gcs", "s3"])
def bucket(request: pytest.FixtureRequest) -> str:
    """Return the URI of a new bucket."""
    return str(request.getfixturevalue(request.param))


def as_listed(info: storage.ObjectInfo) -> storage.ObjectInfo:
    """Return the object as a listing shows it: on s3:// without a checksum."""
    return dataclasses.replace(info, crc32c=None) if info.uri.startswith("s3:") else info


@pytest.mark.parametrize("name", NAMES)
def test_object_of_any_name_can_be_listed_and_read(name: str, bucket: str) -> None:
    info = storage.write_bytes(f"{bucket}/{name}", b"123456789")
    assert info.uri == f"{bucket}/{name}"
    assert (info.size_bytes, info.crc32c) == (9, "e3069283")  # The check value of CRC-32C.
    assert storage.list_objects(bucket) == [as_listed(info)]
    assert storage.stat(info.uri) == info
    assert storage.read_bytes(info.uri, version=info.version) == b"123456789"
    storage.delete(info.uri)
    assert storage.list_objects(bucket) == []


def test_names_in_two_normal_forms_are_two_objects(bucket: str) -> None:
    for form in ("NFC", "NFD"):
        storage.write_text(f"{bucket}/{unicodedata.normalize(form, 'é')}", form)
    assert [storage.read_text(info.uri) for info in storage.list_objects(bucket)] == ["NFD", "NFC"]


def test_name_that_is_not_utf8_is_rejected(bucket: str) -> None:
    with pytest.raises(StorageError, match=r"its name is not UTF-8\. Rename it\."):
        storage.write_bytes(f"{bucket}/\udcff", b"")


def test_listing_has_only_the_folder_and_is_sorted(bucket: str) -> None:
    names = ["a/b", "a/B", "a/c/d", "a/é", "a-b", "ab", "a"]
    for name in names:
        storage.write_bytes(f"{bucket}/{name}", b"")
    assert [info.uri for info in storage.list_objects(f"{bucket}/a")] == [
        f"{bucket}/a/{x}" for x in ("B", "b", "c/d", "é")
    ]
    assert [
        storage.relative_name(info.uri, bucket) for info in storage.list_objects(bucket)
    ] == sorted(names)
    assert storage.list_objects(f"{bucket}/none") == []


@pytest.mark.parametrize("folder", ["/", "//", "a//", "/a", "a///b"])
def test_folder_with_an_empty_name_is_a_folder(folder: str, bucket: str, tmp_path: Path) -> None:
    folder_uri = storage.normalise(f"{bucket}/{folder}")
    for name in ("x", "y/z"):
        storage.write_text(storage.join(folder_uri, name), name)
    storage.write_text(f"{bucket}/other", "")
    storage.write_text(f"{bucket}/a/other", "")
    storage.check_writable(folder_uri)
    infos = storage.list_objects(folder_uri)
    assert [storage.relative_name(info.uri, folder_uri) for info in infos] == ["x", "y/z"]
    assert [storage.read_text(info.uri) for info in infos] == ["x", "y/z"]
    storage.copy_folder(folder_uri, f"{bucket}/b//")
    storage.download_folder(f"{bucket}/b//", tmp_path / "b")
    assert (tmp_path / "b" / "y" / "z").read_text() == "y/z"
    storage.upload_folder(tmp_path / "b", f"{bucket}//c//")
    assert storage.read_text(f"{bucket}//c//x") == "x"
    storage.delete_folder(folder_uri)
    assert storage.list_objects(folder_uri) == []
    assert storage.exists(f"{bucket}/a/other")


def test_create_only_write_keeps_an_existing_object(bucket: str) -> None:
    storage.write_bytes(f"{bucket}/x", b"first", if_absent=True)
    with pytest.raises(AlreadyExistsError, match=f"{bucket}/x must not exist yet"):
        storage.write_bytes(f"{bucket}/x", b"second", if_absent=True)
    assert storage.read_bytes(f"{bucket}/x") == b"first"


def test_swap_requires_the_current_version(bucket: str) -> None:
    first = storage.swap_bytes(f"{bucket}/x", b"1", expected_version=None)
    second = storage.swap_bytes(f"{bucket}/x", b"2", expected_version=first.version)
    for version in (None, first.version):
        with pytest.raises(ConflictError, match=f"{bucket}/x"):
            storage.swap_bytes(f"{bucket}/x", b"3", expected_version=version)
    assert storage.stat(f"{bucket}/x") == second
    assert storage.read_bytes(f"{bucket}/x") == b"2"


def test_read_of_an_outdated_version_fails(bucket: str, tmp_path: Path) -> None:
    info = storage.write_bytes(f"{bucket}/x", b"1")
    storage.write_bytes(f"{bucket}/x", b"2")
    with pytest.raises(NotFoundError, match="changed or deleted since"):
        storage.read_bytes(info.uri, version=info.version)
    with pytest.raises(NotFoundError, match="changed or deleted since"):
        storage.download(info.uri, tmp_path / "x", version=info.version)
    assert list(tmp_path.iterdir()) == []


def test_range_is_read_from_the_listed_version(bucket: str) -> None:
    info = storage.write_bytes(f"{bucket}/x", b"0123456789")
    assert storage.read_range(info.uri, offset=0, num_bytes=1) == b"0"
    assert storage.read_range(info.uri, offset=3, num_bytes=4, version=info.version) == b"3456"
    assert storage.read_range(info.uri, offset=8, num_bytes=9) == b"89"
    storage.write_bytes(f"{bucket}/x", b"another content")
    with pytest.raises(NotFoundError, match="changed or deleted since"):
        storage.read_range(info.uri, offset=0, num_bytes=1, version=info.version)
    with pytest.raises(NotFoundError, match=f"{bucket}/y"):
        storage.read_range(f"{bucket}/y", offset=0, num_bytes=1)


def test_missing_object_raises_not_found_error(bucket: str, tmp_path: Path) -> None:
    assert storage.stat(f"{bucket}/x") is None
    assert not storage.exists(f"{bucket}/x")
    with pytest.raises(NotFoundError, match=f"{bucket}/x cannot be read: there is no such object"):
        storage.read_bytes(f"{bucket}/x")
    with pytest.raises(NotFoundError, match=f"{bucket}/x"):
        storage.copy(f"{bucket}/x", f"{bucket}/y")
    with pytest.raises(NotFoundError):
        storage.download(f"{bucket}/x", tmp_path / "x")
    with pytest.raises(NotFoundError, match=f"{tmp_path}/x"):
        storage.upload(tmp_path / "x", f"{bucket}/x")
    storage.delete(f"{bucket}/x")
    assert list(tmp_path.iterdir()) == []


def test_missing_bucket_is_named(bucket: str) -> None:
    for operation in (
        storage.check_writable,
        storage.list_objects,
        lambda uri: storage.write_bytes(uri, b""),
    ):
        with pytest.raises(
            StorageError, match=rf"there is no bucket {bucket}-missing.*\. Create"
        ) as caught:
            operation(f"{bucket}-missing/folder/x")
        assert not isinstance(caught.value, NotFoundError)
        assert "\n" not in str(caught.value)


def test_folder_is_unchanged_after_upload_copy_and_download(bucket: str, tmp_path: Path) -> None:
    files = {"a.txt": b"a", "b/c d.txt": b"c", "b/e/é.txt": b""}
    for name, data in files.items():
        storage.write_bytes(f"{tmp_path}/source/{name}", data)
    storage.upload_folder(tmp_path / "source", f"{bucket}/uploaded")
    storage.copy_folder(f"{bucket}/uploaded", f"{bucket}/copied")
    storage.copy_folder(f"{bucket}/copied", f"{tmp_path}/target")
    storage.download_folder(f"{bucket}/copied", tmp_path / "downloaded")
    for folder in (f"{bucket}/copied", f"{tmp_path}/target", f"{tmp_path}/downloaded"):
        uris = {
            storage.relative_name(info.uri, folder): info.uri
            for info in storage.list_objects(folder)
        }
        assert {name: storage.read_bytes(uri) for name, uri in uris.items()} == files


@pytest.mark.parametrize("name", ["../escaped", "a/../../escaped", "a//b", "./a"])
def test_download_rejects_names_that_are_not_valid_local_paths(
    name: str, bucket: str, tmp_path: Path
) -> None:
    storage.write_bytes(f"{bucket}/folder/{name}", b"")
    for copy in (storage.download_folder, lambda uri, path: storage.copy_folder(uri, str(path))):
        with pytest.raises(StorageError, match="must have a name that is valid as a local path"):
            copy(f"{bucket}/folder", tmp_path / "down")
    assert list(tmp_path.iterdir()) == []


def test_as_local_file_deletes_the_download_afterwards(bucket: str) -> None:
    storage.write_bytes(f"{bucket}/a/x.txt", b"1")
    with storage.as_local_file(f"{bucket}/a/x.txt") as path:
        assert path.name == "x.txt"
        assert path.read_bytes() == b"1"
    assert not path.exists()


def test_threads_share_one_client(bucket: str) -> None:
    with ThreadPoolExecutor(32) as pool:
        infos = list(
            pool.map(
                lambda number: storage.write_bytes(f"{bucket}/{number:03d}", b"%d" % number),
                range(200),
            )
        )
        data = list(
            pool.map(lambda info: storage.read_bytes(info.uri, version=info.version), infos)
        )
    assert data == [b"%d" % number for number in range(200)]
    assert storage.list_objects(bucket) == [as_listed(info) for info in infos]


@pytest.fixture
def proxy(
    bucket: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[FaultyProxy]:
    """Run a proxy in front of the bucket's server."""
    scheme = "gcs" if bucket.startswith("gs:") else "s3"
    with run_proxy(str(request.getfixturevalue(f"{scheme}_endpoint"))) as server:
        monkeypatch.setenv(
            "STORAGE_EMULATOR_HOST" if scheme == "gcs" else "AWS_ENDPOINT_URL_S3", server.url
        )
        yield server


def test_listed_object_is_read_by_one_plain_request(
    bucket: str, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = storage.write_bytes(f"{bucket}/ä b+c#?.jpg", b"0123456789")

    def fail(*_arguments: object, **_options: object) -> None:
        raise AssertionError("the client makes this request")

    for client in (gcs_client, s3_client):
        monkeypatch.setattr(client, "call_with_retries", fail)
    proxy.requests.clear()
    content = storage.read_object(info.uri, version=info.version)
    assert (content.data, content.info.crc32c) == (b"0123456789", info.crc32c)
    assert storage.read_range(info.uri, offset=2, num_bytes=3, version=info.version) == b"234"
    assert [request.method for request in proxy.requests] == ["GET", "GET"]


def _answer(status: int) -> Fault:
    return lambda _forward: (status, [], b"")


@pytest.mark.parametrize(
    "fault",
    [
        flip_bit,
        truncate,
        drop_connection,
        lambda _forward: None,
        *map(_answer, (200, 206, 301, 400, 403, 404, 429, 503)),
    ],
)
def test_client_reads_what_a_plain_request_cannot(
    fault: Fault, bucket: str, proxy: FaultyProxy
) -> None:
    data = bytes(1000)
    info = storage.write_bytes(f"{bucket}/x", data)
    for _ in range(2):
        proxy.faults["GET"] = [fault]
        assert storage.read_bytes(info.uri, version=info.version) == data
        assert proxy.faults["GET"] == []
        # A new client each time: after some answers, only the client makes requests.
        for client in (gcs_client, s3_client):
            client.state.clients.clear()


def test_whole_object_is_no_answer_to_a_request_for_a_range(
    bucket: str, proxy: FaultyProxy
) -> None:
    info = storage.write_bytes(f"{bucket}/x", b"0123456789")

    def ignore_range(forward: Callable[[], Response]) -> Response:
        _, headers, _ = forward()
        return 200, headers, b"0123456789"

    proxy.faults["GET"] = [ignore_range]
    assert storage.read_range(info.uri, offset=2, num_bytes=3, version=info.version) == b"234"
    assert proxy.faults["GET"] == []


class _RateLimit:
    """Refuses the requests that arrive while a number of others is being answered."""

    def __init__(self, max_at_once: int, status: int) -> None:
        self.num_answered = self.num_refused = 0
        self._max_at_once, self._status = max_at_once, status
        self._num_at_once = 0
        self._lock = threading.Lock()

    def __call__(self, forward: Callable[[], Response]) -> Response:
        with self._lock:
            if self._num_at_once >= self._max_at_once:
                self.num_refused += 1
                return self._status, [("Content-Type", "application/xml")], b""
            self._num_at_once += 1
        try:
            time.sleep(0.005)
            return forward()
        finally:
            with self._lock:
                self._num_at_once -= 1
                self.num_answered += 1


@pytest.mark.parametrize("is_listed", [False, True])
def test_requests_settle_at_the_rate_that_the_service_accepts(
    is_listed: bool, bucket: str, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retries, "_FIRST_PAUSE_SECONDS", 0.02)
    info = storage.write_bytes(f"{bucket}/x", b"data")
    version = info.version if is_listed else None
    rate_limit = _RateLimit(4, 429 if bucket.startswith("gs:") else 503)
    assert storage.read_bytes(info.uri) == b"data"
    proxy.faults["GET"] = [rate_limit] * 10_000
    with ThreadPoolExecutor(32) as pool:
        reads = list(pool.map(lambda _: storage.read_bytes(info.uri, version=version), range(250)))
    assert reads == [b"data"] * 250
    assert rate_limit.num_answered == 250
    # About 20; without the common limit 200 to 400.
    assert 0 < rate_limit.num_refused < 100


def test_stored_objects_are_scanned_with_hidden_ones_and_their_times(bucket: str) -> None:
    first = storage.read_clock(bucket)
    for name in ("a/x", "a/.repot-0.tmp", "ab"):
        storage.write_text(f"{bucket}/{name}", "12")
    storage.write_text(f"{bucket}/a/folder/", "")
    found = {each.uri: each for each in storage.scan_stored(f"{bucket}/a")}
    assert found.keys() == {f"{bucket}/a/x", f"{bucket}/a/.repot-0.tmp"}
    assert [found[f"{bucket}/a/{name}"].is_hidden for name in ("x", ".repot-0.tmp")] == [
        False,
        True,
    ]
    assert {each.size_bytes for each in found.values()} == {2}
    # S3 has whole seconds.
    assert all(first <= each.written_at <= storage.read_clock(bucket) for each in found.values())
    assert abs(first - time.time()) < 60
    assert list(storage.scan_stored(f"{bucket}/none")) == []
    assert len(storage.list_objects(bucket)) == 2
