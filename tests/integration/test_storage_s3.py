"""Behaviour specific to Amazon S3, on a real server process that emulates its API."""

import base64
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from repot import storage
from repot.errors import AlreadyExistsError, ConflictError, NotFoundError, StorageError
from repot.planner.checksums import add_checksums
from repot.planner.listing import PictureRoots, list_files
from repot.storage.s3 import client, transfer
from tests.integration.faulty_proxy import run_proxy

DIGITS = b"123456789"
PART_BYTES = 5 << 20  # The minimum of S3 for all parts except the last.


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use a multipart upload for files larger than one part."""
    monkeypatch.setattr(transfer, "SINGLE_REQUEST_BYTES", PART_BYTES)
    monkeypatch.setattr(transfer, "PART_BYTES", PART_BYTES)


def put_object(uri: str, data: bytes = b"", **arguments: str) -> None:
    """Create an object without repot, as the console's "create folder" does."""
    bucket, _, name = uri.removeprefix("s3://").partition("/")
    client.client().put_object(Bucket=bucket, Key=name, Body=data, **arguments)


def test_version_is_the_etag_and_crc32c_that_of_the_bytes(s3: str) -> None:
    info = storage.write_bytes(f"{s3}/x", DIGITS)
    assert (info.size_bytes, info.crc32c, info.version) == (
        9,
        "e3069283",
        hashlib.md5(DIGITS).hexdigest(),
    )


def test_listing_skips_folder_placeholders_and_hidden_objects(s3: str) -> None:
    for name in ("a/", "a/b/", "a/.repot-0.check", ".repot-0.check"):
        put_object(f"{s3}/{name}")
    info = storage.write_bytes(f"{s3}/a/.repo", b"")
    assert [listed.uri for listed in storage.list_objects(s3)] == [info.uri]
    storage.delete_folder(f"{s3}/a")
    assert storage.stat(f"{s3}/a/b/") is None
    assert storage.stat(f"{s3}/a/.repot-0.check") is None


def test_listing_of_more_than_one_page_is_complete(s3: str) -> None:
    names = [f"{number:04d}" for number in range(1001)]
    for name in names:
        put_object(f"{s3}/{name}")
    assert [storage.relative_name(info.uri, s3) for info in storage.list_objects(s3)] == names


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize(
    "size_bytes", [0, 1, PART_BYTES, PART_BYTES + 1, 2 * PART_BYTES, 2 * PART_BYTES + 1]
)
def test_file_is_unchanged_after_upload_copy_and_download(
    size_bytes: int, s3: str, tmp_path: Path
) -> None:
    (tmp_path / "source").write_bytes(os.urandom(size_bytes))
    info = storage.upload(tmp_path / "source", f"{s3}/x")
    assert (info.size_bytes, info.crc32c) == (
        size_bytes,
        storage.file_crc32c_hex(tmp_path / "source"),
    )
    assert storage.stat(f"{s3}/x") == info
    assert ("-" in info.version) == (size_bytes > PART_BYTES)
    storage.copy(f"{s3}/x", f"{s3}/y")
    copied = storage.stat(f"{s3}/y")
    assert copied is not None
    assert copied.crc32c == info.crc32c
    for uri, version in ((f"{s3}/x", info.version), (f"{s3}/y", copied.version)):
        storage.download(uri, tmp_path / "target", version=version)
        assert (tmp_path / "target").read_bytes() == (tmp_path / "source").read_bytes()


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("size_bytes", [PART_BYTES, PART_BYTES + 1])
def test_create_only_upload_keeps_an_existing_object(
    size_bytes: int, s3: str, tmp_path: Path
) -> None:
    (tmp_path / "source").write_bytes(bytes(size_bytes))
    storage.upload(tmp_path / "source", f"{s3}/x", if_absent=True)
    (tmp_path / "source").write_bytes(b"1" * size_bytes)
    with pytest.raises(AlreadyExistsError):
        storage.upload(tmp_path / "source", f"{s3}/x", if_absent=True)
    assert storage.read_bytes(f"{s3}/x") == bytes(size_bytes)


@pytest.mark.usefixtures("small_parts")
def test_failed_upload_leaves_no_parts(
    s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_data: bytes, number: int, _upload: object) -> dict[str, object]:
        raise KeyboardInterrupt(number)

    (tmp_path / "source").write_bytes(bytes(PART_BYTES + 1))
    monkeypatch.setattr(transfer, "_upload_part", fail)
    with pytest.raises(KeyboardInterrupt):
        storage.upload(tmp_path / "source", f"{s3}/x")
    bucket = s3.removeprefix("s3://")
    assert "Uploads" not in client.request(
        lambda client: client.list_multipart_uploads(Bucket=bucket)
    )


def test_object_of_another_program_is_verified_by_the_service_checksum(s3: str) -> None:
    put_object(f"{s3}/plain", DIGITS)
    put_object(f"{s3}/crc32c", DIGITS, ChecksumCRC32C="4waSgw==", ChecksumAlgorithm="CRC32C")
    wrong = base64.b64encode(bytes(32)).decode()
    put_object(f"{s3}/sha256", DIGITS, ChecksumSHA256=wrong, ChecksumAlgorithm="SHA256")
    assert [
        info.crc32c for name in ("plain", "crc32c") if (info := storage.stat(f"{s3}/{name}"))
    ] == [None, "e3069283"]
    assert storage.read_bytes(f"{s3}/plain") == storage.read_bytes(f"{s3}/crc32c") == DIGITS
    assert storage.read_crc32c_hex(f"{s3}/plain") == "e3069283"
    with pytest.raises(StorageError, match=f"{s3}/sha256 must arrive as it is stored"):
        storage.read_bytes(f"{s3}/sha256")


def test_pictures_are_read_only_once_for_their_checksums(
    s3: str, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("cat/1.jpg", "cat/2.jpg", "dog/1.jpg"):
        put_object(f"{s3}/pictures/{name}", name.encode())
    roots = PictureRoots(pictures_uri=f"{s3}/pictures")
    with run_proxy(s3_endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.url)

        def check() -> list[str]:
            """Return the checksums; `reads` then returns the requests of this call only."""
            proxy.requests.clear()
            files, unreadable = add_checksums(list_files(roots).files, roots, f"{s3}/listings")
            assert unreadable == {}
            return [file.crc32c for file in files]

        def reads() -> list[str]:
            gets = [request.path for request in proxy.requests if request.method == "GET"]
            return [path.rpartition("/pictures/")[2] for path in gets if path.endswith(".jpg")]

        first = check()
        assert first == [
            storage.crc32c_hex(name) for name in (b"cat/1.jpg", b"cat/2.jpg", b"dog/1.jpg")
        ]
        assert sorted(reads()) == ["cat/1.jpg", "cat/2.jpg", "dog/1.jpg"]
        assert check() == first
        assert reads() == []
        put_object(f"{s3}/pictures/cat/2.jpg", b"another")
        assert check() == [first[0], storage.crc32c_hex(b"another"), first[2]]
        assert reads() == ["cat/2.jpg"]


def test_swap_requires_the_current_version_if_the_service_ignores_conditions(
    s3: str, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with run_proxy(s3_endpoint) as proxy:
        proxy.dropped_headers = {"if-match", "if-none-match"}
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.url)
        storage.check_writable(f"{s3}/folder")
        assert f"{proxy.url} ignores conditions on writes" in caplog.text
        first = storage.swap_bytes(f"{s3}/x", b"1", expected_version=None)
        storage.swap_bytes(f"{s3}/x", b"2", expected_version=first.version)
        for version in (None, first.version):
            with pytest.raises(ConflictError, match=f"{s3}/x"):
                storage.swap_bytes(f"{s3}/x", b"3", expected_version=version)
        with pytest.raises(AlreadyExistsError):
            storage.write_bytes(f"{s3}/x", b"3", if_absent=True)
        with pytest.raises(NotFoundError, match="changed or deleted since"):
            storage.read_bytes(f"{s3}/x", version=first.version)
        assert storage.read_bytes(f"{s3}/x") == b"2"


def test_service_that_supports_conditions_gets_no_warning(
    s3: str, caplog: pytest.LogCaptureFixture
) -> None:
    storage.check_writable(f"{s3}/folder")
    assert caplog.text == ""
    assert storage.list_objects(s3) == []


def test_forked_child_and_parent_do_not_share_a_connection(s3: str) -> None:
    for name in ("child", "parent"):
        storage.write_text(f"{s3}/{name}", name)
    parent_client = client.client()
    child = os.fork()
    name = "parent" if child else "child"
    texts = {storage.read_text(f"{s3}/{name}") for _ in range(20)}
    if child == 0:
        os._exit(0 if texts == {name} and client.client() is not parent_client else 1)
    assert client.client() is parent_client
    assert texts == {name}
    assert os.waitpid(child, 0)[1] == 0


def test_missing_boto3_is_named() -> None:
    program = """
import sys
sys.modules["boto3"] = None
from repot import storage
from repot.errors import StorageError
try:
    storage.read_bytes("s3://bucket/x")
except StorageError as err:
    print(err)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert (
        done.stdout == "s3:// needs the package boto3, which is missing. Run "
        "`make venv EXTRAS=s3`, or without a checkout `python -m pip install 'boto3>=1.36'`.\n"
    )
