"""Objects that were uploaded with Content-Encoding: gzip, on both object stores."""

import gzip
import io
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from repot import storage
from repot.data_checks import DataLimits
from repot.errors import ContentEncodingError
from repot.manifest import read_manifest
from repot.planner.listing import PictureRoots
from repot.planner.plan import plan_dataset
from repot.settings import DatasetSettings
from repot.shard_builder.build import build_shards
from repot.shard_builder.complete import complete_dataset
from tests.integration.test_storage_gcs import put_object as put_gcs_object
from tests.integration.test_storage_s3 import put_object as put_s3_object

Put = Callable[[str, bytes, str], None]


@pytest.fixture(params=["gcs", "s3"])
def bucket(request: pytest.FixtureRequest) -> str:
    """Return the URI of a new bucket."""
    return str(request.getfixturevalue(request.param))


@pytest.fixture
def put(bucket: str, gcs_endpoint: str) -> Put:
    """Return a function that uploads bytes with a Content-Encoding, without repot."""

    def put_object(name: str, data: bytes, encoding: str) -> None:
        if bucket.startswith("s3:"):
            put_s3_object(f"{bucket}/{name}", data, ContentEncoding=encoding)
        else:
            put_gcs_object(gcs_endpoint, bucket, name, data, contentEncoding=encoding)

    return put_object


def picture(level: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (32, 24), (level, 90, 200 - level)).save(stream, "PNG")
    return stream.getvalue()


def test_gzip_object_is_decompressed_and_its_checksum_is_of_the_stored_bytes(
    bucket: str, put: Put, tmp_path: Path
) -> None:
    stored = gzip.compress(b"data")
    put("x", stored, "gzip")
    (info,) = storage.list_objects(bucket)
    content = storage.read_object(info.uri, version=info.version)
    assert content.data == storage.read_bytes(info.uri) == b"data"
    assert content.info.size_bytes == info.size_bytes == len(stored)
    assert content.info.crc32c == storage.crc32c_hex(stored) == storage.read_crc32c_hex(info.uri)
    assert content.info.version == info.version
    storage.download(info.uri, tmp_path / "y", version=info.version)
    assert (tmp_path / "y").read_bytes() == b"data"
    assert [path.name for path in tmp_path.iterdir()] == ["y"]


def test_gzip_object_is_still_one_after_a_copy_in_the_service(bucket: str, put: Put) -> None:
    put("x", gzip.compress(b"data"), "gzip")
    storage.copy(f"{bucket}/x", f"{bucket}/y")
    assert storage.read_bytes(f"{bucket}/y") == b"data"


def test_other_compression_names_the_object(bucket: str, put: Put, tmp_path: Path) -> None:
    put("x", b"data", "br")
    with pytest.raises(ContentEncodingError, match=f"{bucket}/x must .* Content-Encoding='br'"):
        storage.read_bytes(f"{bucket}/x")
    with pytest.raises(ContentEncodingError):
        storage.download(f"{bucket}/x", tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


def test_dataset_of_gzip_pictures_has_every_picture(bucket: str, put: Put, tmp_path: Path) -> None:
    for index in range(8):
        data = picture(10 * index)
        put(f"pictures/{'cat' if index % 2 else 'dog'}/{index}.png", gzip.compress(data), "gzip")
    put("pictures/cat/damaged.png", gzip.compress(picture(99))[:-4], "gzip")
    plan = plan_dataset(
        PictureRoots(pictures_uri=f"{bucket}/pictures"),
        dataset_folder=lambda dataset_id: str(tmp_path / dataset_id),
        listings_uri=None,
        settings=DatasetSettings(),
    )
    build_shards(plan.dataset_uri, num_processes=1)
    complete_dataset(plan.dataset_uri, limits=DataLimits(max_rejected_fraction=0.2))
    manifest = read_manifest(plan.dataset_uri)
    assert [(item.path, item.reason) for item in manifest.rejected] == [
        ("cat/damaged.png", "unreadable")
    ]
    assert manifest.num_accepted == 8
