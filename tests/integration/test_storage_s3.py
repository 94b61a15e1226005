"""Behaviour specific to Amazon S3, on a real server process that emulates its API."""

import base64
import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from repot import storage
from repot.data_checks import DataLimits
from repot.errors import (
    AlreadyExistsError,
    ConflictError,
    DataError,
    NotFoundError,
    StorageError,
)
from repot.example_digests import DIGEST_BYTES, digests_uri, read_stored
from repot.planner.checksums import add_checksums
from repot.planner.listing import PictureRoots, list_root
from repot.planner.plan import PlannedDataset, plan_dataset
from repot.settings import DatasetSettings
from repot.shard_builder.build import build_shards
from repot.shard_builder.complete import complete_dataset
from repot.shard_builder.shard import read_picture
from repot.storage.checksums import crc32c_to_base64
from repot.storage.s3 import client, direct, transfer
from repot.work_list import read_work_list
from tests.integration.faulty_proxy import run_proxy

DIGITS = b"123456789"
GOLDEN = Path(__file__).parents[1] / "golden" / "build_image_data" / "data" / "train"
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


def put_with_crc32c(uri: str, data: bytes) -> None:
    checksum = crc32c_to_base64(storage.crc32c_hex(data))
    put_object(uri, data, ChecksumCRC32C=checksum, ChecksumAlgorithm="CRC32C")


def test_listing_says_which_objects_have_a_crc32c(s3: str) -> None:
    put_object(f"{s3}/1", DIGITS)
    put_with_crc32c(f"{s3}/2", DIGITS)
    plain, checked = storage.list_objects(s3)
    assert (plain.has_crc32c, checked.has_crc32c) == (False, True)
    assert (plain.crc32c, checked.crc32c) == (None, None)
    for info in (plain, checked):
        found = storage.stat(info.uri)
        assert found is not None
        assert found.has_crc32c == info.has_crc32c
        assert found.stamp == info.stamp
        assert int(found.stamp.split()[1]) > 0


def test_planning_reads_no_picture_and_asks_once_for_each_checksum(
    s3: str, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("cat/1.jpg", "cat/2.jpg"):
        put_with_crc32c(f"{s3}/pictures/{name}", name.encode())
    put_object(f"{s3}/pictures/dog/1.jpg", b"dog/1.jpg")
    etag = f"etag:{hashlib.md5(b'dog/1.jpg').hexdigest()}"
    roots = PictureRoots(pictures_uri=f"{s3}/pictures")
    with run_proxy(s3_endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.url)

        def check() -> list[str]:
            """Return the checksums; `lookups` then returns the requests of this call only."""
            proxy.requests.clear()
            files = list_root("", f"{s3}/pictures").files
            assert add_checksums(files, roots, f"{s3}/listings") == {}
            return [file.checksum for file in files]

        def lookups() -> list[str]:
            requests = [each for each in proxy.requests if each.path.endswith(".jpg")]
            assert {request.method for request in requests} <= {"HEAD"}
            return sorted(request.path.rpartition("/pictures/")[2] for request in requests)

        first = check()
        assert first == [*map(storage.crc32c_hex, (b"cat/1.jpg", b"cat/2.jpg")), etag]
        assert lookups() == ["cat/1.jpg", "cat/2.jpg"]
        assert check() == first
        assert lookups() == []
        put_with_crc32c(f"{s3}/pictures/cat/2.jpg", b"another")
        assert check() == [first[0], storage.crc32c_hex(b"another"), etag]
        assert lookups() == ["cat/2.jpg"]
        # The checksum follows from the object alone, not from what the cache knew of it before.
        put_object(f"{s3}/pictures/cat/2.jpg", b"another")
        assert check() == [first[0], f"etag:{hashlib.md5(b'another').hexdigest()}", etag]


def test_object_that_changes_after_it_was_listed_is_named(s3: str) -> None:
    put_with_crc32c(f"{s3}/pictures/cat/1.jpg", DIGITS)
    roots = PictureRoots(pictures_uri=f"{s3}/pictures")
    listed = list_root("", f"{s3}/pictures").files
    put_with_crc32c(f"{s3}/pictures/cat/1.jpg", b"another")
    with pytest.raises(NotFoundError, match=r"cat/1\.jpg must not change after it was listed"):
        add_checksums(listed, roots, f"{s3}/listings")


def plan_golden(pictures_uri: str, storage_uri: str) -> PlannedDataset:
    return plan_dataset(
        PictureRoots(pictures_uri=pictures_uri),
        dataset_folder=lambda dataset_id: f"{storage_uri}/datasets/{dataset_id}",
        listings_uri=f"{storage_uri}/listings",
        settings=DatasetSettings(train_shards=1, validation_shards=1),
    )


def test_pictures_with_crc32c_are_the_same_dataset_as_a_local_folder(
    s3: str, tmp_path: Path
) -> None:
    for path in GOLDEN.glob("*/*.*"):
        put_with_crc32c(f"{s3}/pictures/{path.parent.name}/{path.name}", path.read_bytes())
    there = plan_golden(f"{s3}/pictures", s3).plan
    assert there.dataset_id == plan_golden(str(GOLDEN), str(tmp_path)).plan.dataset_id


def test_pictures_without_crc32c_are_built_from_the_listed_etags(s3: str) -> None:
    for path in GOLDEN.glob("*/*.*"):
        put_object(f"{s3}/pictures/{path.parent.name}/{path.name}", path.read_bytes())
    planned = plan_golden(f"{s3}/pictures", s3)
    storage.delete_folder(f"{s3}/listings")
    assert plan_golden(f"{s3}/pictures", s3).plan.dataset_id == planned.plan.dataset_id
    work_list = read_work_list(planned.dataset_uri, planned.plan.shard_names[0])
    assert work_list[0].content == f"etag:{work_list[0].version}:{work_list[0].size_bytes}"
    build_shards(planned.dataset_uri, num_processes=1)
    manifest = complete_dataset(planned.dataset_uri, limits=DataLimits(max_rejected_fraction=0.0))
    assert manifest.num_accepted == planned.plan.num_found

    # Equal bytes that were stored again are no change; others are.
    data = read_picture(work_list[0])
    put_object(work_list[0].uri, data, ContentType="image/jpeg")
    assert read_picture(work_list[0]) == data
    put_object(work_list[0].uri, data + b"\0")
    with pytest.raises(DataError, match="A picture must not change after it is listed"):
        read_picture(work_list[0])


def test_copies_with_another_etag_are_not_scored(s3: str) -> None:
    for path in GOLDEN.glob("*/*.*"):
        put_object(f"{s3}/pictures/{path.parent.name}/{path.name}", path.read_bytes())
        # One part, as some uploaders do: its ETag is not the MD5 of the content.
        name = {"Bucket": s3.removeprefix("s3://"), "Key": f"pictures/{path.parent.name}/copy of "}
        name["Key"] += path.name
        upload = client.client().create_multipart_upload(**name)["UploadId"]
        part = client.client().upload_part(
            **name, UploadId=upload, PartNumber=1, Body=path.read_bytes()
        )
        client.client().complete_multipart_upload(
            **name,
            UploadId=upload,
            MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]},
        )
    planned = plan_golden(f"{s3}/pictures", s3)
    assert planned.plan.num_found == 2 * len(list(GOLDEN.glob("*/*.*")))
    build_shards(planned.dataset_uri, num_processes=1)
    manifest = complete_dataset(planned.dataset_uri, limits=DataLimits(max_rejected_fraction=0.0))
    train, validation = (
        {bytes(digest).ljust(DIGEST_BYTES, b"\0").hex() for digest in digests}
        for split in ("train", "validation")
        if (digests := read_stored(digests_uri(planned.dataset_uri, split))) is not None
    )
    excluded = {item.digest for item in manifest.excluded if item.reason == "copy_of_training"}
    assert train & validation
    assert excluded >= train & validation


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


def test_plain_requests_are_understood(s3: str) -> None:
    info = storage.write_bytes(f"{s3}/a b/ä+%.txt", DIGITS)

    response = direct.get_directly(info.uri, version=info.version)
    part = direct.get_directly(info.uri, version=info.version, byte_range="3-4")

    assert response is not None
    assert part is not None
    assert (response.body, part.body) == (DIGITS, DIGITS[3:5])


def test_client_reads_a_bucket_that_plain_requests_cannot_reach(
    s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = storage.write_bytes(f"{s3}/x", DIGITS)
    client.state.clients.clear()
    monkeypatch.setattr(direct, "find_address", lambda *_: None)

    assert direct.get_directly(info.uri, version=info.version) is None
    assert storage.read_bytes(info.uri, version=info.version) == DIGITS
    client.state.clients.clear()


def test_checksum_of_a_listed_object_is_one_plain_request(
    s3: str, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = storage.write_bytes(f"{s3}/x", DIGITS)
    with run_proxy(s3_endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.url)
        assert storage.read_crc32c_hex(info.uri, version=info.version) == "e3069283"
        assert [request.method for request in proxy.requests] == ["HEAD"]
        # Whatever goes wrong, the client asks again.
        proxy.faults["HEAD"] = [lambda _: (500, [], b"")]
        assert storage.read_crc32c_hex(info.uri, version=info.version) == "e3069283"
        assert [request.method for request in proxy.requests] == ["HEAD", "HEAD", "HEAD"]
        storage.write_bytes(info.uri, DIGITS[:5])
        with pytest.raises(NotFoundError, match="changed or deleted since"):
            storage.read_crc32c_hex(info.uri, version=info.version)


def test_times_of_listings_are_those_of_single_objects(s3: str) -> None:
    info = storage.write_bytes(f"{s3}/x", DIGITS)
    (listed,) = storage.list_objects(s3)
    found = storage.stat(info.uri)
    assert found is not None
    assert listed.stamp == found.stamp
    assert abs(int(listed.stamp.split()[1]) - time.time()) < 60
