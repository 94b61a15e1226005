from pathlib import Path

import pytest

from repot import checkpoints
from repot.checkpoints import KNOWN_CHECKPOINTS, find_source
from repot.errors import CheckpointError, UsageError
from repot.zoo import BACKBONES


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("source", ["", "default"])
def test_each_backbone_has_a_default_that_fits_it(backbone: str, source: str) -> None:
    found = find_source(source, backbone=backbone)

    assert found.name == BACKBONES[backbone].default_checkpoint
    assert found.name in KNOWN_CHECKPOINTS
    assert found.backbone == backbone


def test_the_tutorials_checkpoint_has_its_published_address() -> None:
    assert find_source("inception-v3-2016-03-01", backbone="inception_v3").uri == (
        "https://download.tensorflow.org/models/image/imagenet/inception-v3-2016-03-01.tar.gz"
    )


def test_only_the_release_of_august_has_averaged_plain_values() -> None:
    averaged = [
        name
        for name in KNOWN_CHECKPOINTS[:2]
        if find_source(name, backbone="inception_v3").is_averaged
    ]

    assert averaged == ["inception-v3-2016-08-28"]


def test_the_installed_weights_are_those_that_were_tried() -> None:
    checkpoints.check_source(source="efficientnet-lite0", backbone="efficientnet_lite0")

    found = find_source("efficientnet-lite0", backbone="efficientnet_lite0")
    assert found.sha256 == "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


def test_a_web_address_is_kept_and_named_without_its_secrets() -> None:
    found = find_source("https://me:pw@host.example/w.h5?sig=secret", backbone="mobilenet_v2")

    assert found.uri == "https://me:pw@host.example/w.h5?sig=secret"
    assert found.name == "https://host.example/w.h5"


def test_a_given_checksum_wins_over_the_known_one() -> None:
    assert find_source("default", backbone="efficientnet_lite0", sha256="A" * 64).sha256 == "a" * 64


@pytest.mark.parametrize(
    ("source", "backbone", "message"),
    [
        (
            "inception-v3-2016-03-01",
            "mobilenet_v2",
            "must be used with backbone=inception_v3; got backbone='mobilenet_",
        ),
        (
            "efficientnet-lite0",
            "inception_v3",
            "inception-v3-2016-03-01 is the one for inception_v3",
        ),
        (
            "imagenet",
            "efficientnet_lite0",
            "checkpoint imagenet must be used with one of inception_v3, mobilenet_v2",
        ),
        (
            "inception-v3-2016-03-1",
            "inception_v3",
            "must be one of default, inception-v3-2016-03-01, .* or a path",
        ),
        (
            "ftp://host/weights.h5",
            "inception_v3",
            "or a path, gs://, s3:// or http.*got checkpoint='ftp://host/weights.h5'",
        ),
        ("https://", "inception_v3", "must be a whole web address.*got checkpoint='https://'"),
        ("http://[::1", "inception_v3", "must be a whole web address"),
        ("default", "resnet", "backbone must be one of inception_v3"),
    ],
)
def test_wrong_words_are_answered_with_the_choices(
    source: str, backbone: str, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        find_source(source, backbone=backbone)


def test_all_wrong_words_are_named_at_once() -> None:
    with pytest.raises(UsageError) as caught:
        checkpoints.check_source(
            source="inceptoin", backbone="inception_v3", sha256="123", values="mean"
        )

    assert len(caught.value.problems) == 3


def test_a_path_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"there is none at .*/model\.ckpt-1\. Check the name"
    ):
        checkpoints.check_source(source=str(tmp_path / "model.ckpt-1"), backbone="inception_v3")


def test_a_folder_with_a_bare_name_may_be_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "converted").mkdir()
    (tmp_path / "converted" / "weights.h5").write_bytes(b"")
    monkeypatch.chdir(tmp_path)

    checkpoints.check_source(source="converted", backbone="inception_v3")
