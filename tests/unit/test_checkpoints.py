from pathlib import Path

import pytest

from repot.checkpoints import KNOWN_CHECKPOINTS, check_source, resolve_source
from repot.errors import CheckpointError, UsageError
from repot.zoo import BACKBONES


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("source", ["", "default"])
def test_default_of_each_backbone_is_a_known_checkpoint_that_fits(
    backbone: str, source: str
) -> None:
    resolved = resolve_source(source, backbone=backbone)

    assert resolved.name == BACKBONES[backbone].default_checkpoint
    assert resolved.name in KNOWN_CHECKPOINTS
    assert resolved.backbone == backbone


@pytest.mark.parametrize("backbone", BACKBONES)
def test_licence_is_known_unless_keras_publishes_the_weights(backbone: str) -> None:
    resolved = resolve_source("default", backbone=backbone)

    assert resolved.licence in (("",) if resolved.name == "imagenet" else ("Apache-2.0", "MIT"))


def test_checkpoint_of_the_tutorial_has_its_published_address() -> None:
    assert resolve_source("inception-v3-2016-03-01", backbone="inception_v3").uri == (
        "https://download.tensorflow.org/models/image/imagenet/inception-v3-2016-03-01.tar.gz"
    )


def test_only_the_release_of_2016_08_28_has_averages_under_plain_names() -> None:
    averaged = [
        name
        for name in KNOWN_CHECKPOINTS[:2]
        if resolve_source(name, backbone="inception_v3").is_averaged
    ]

    assert averaged == ["inception-v3-2016-08-28"]


def test_installed_weights_exist_and_have_a_known_checksum() -> None:
    resolved = check_source("efficientnet-lite0", backbone="efficientnet_lite0")

    assert resolved.sha256 == "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


def test_web_address_is_kept_and_its_name_has_no_secrets() -> None:
    resolved = resolve_source("https://me:pw@host.example/w.h5?sig=secret", backbone="mobilenet_v2")

    assert resolved.uri == "https://me:pw@host.example/w.h5?sig=secret"
    assert resolved.name == "https://host.example/w.h5"


def test_sha256_argument_overrides_the_known_checksum() -> None:
    resolved = resolve_source("default", backbone="efficientnet_lite0", sha256="A" * 64)

    assert resolved.sha256 == "a" * 64


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
            "Use checkpoint=inception-v3-2016-03-01 for inception_v3",
        ),
        (
            "imagenet",
            "efficientnet_lite0",
            "checkpoint imagenet must be used with one of inception_v3, .* Use checkpoint=effici",
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
        (
            "gs://bucket/model.ckpt-157585.meta",
            "inception_v3",
            "holds only the graph of .* Use checkpoint='gs://bucket/model.ckpt-157585'",
        ),
        (
            "https://host/model.ckpt.meta?key=1",
            "inception_v3",
            "holds only the graph of .* Use checkpoint='https://host/model.ckpt'",
        ),
        (
            "ftp://me:p4ss@host/w.h5",
            "inception_v3",
            r"got checkpoint='ftp://\*\*\*@host/w\.h5'",
        ),
        ("http://me:p4ss@[::1", "inception_v3", r"got checkpoint='http://\*\*\*@\[::1'"),
        ("https://", "inception_v3", "must be a complete web address.*got checkpoint='https://'"),
        ("http://[::1", "inception_v3", "must be a complete web address"),
        ("default", "resnet", "backbone must be one of inception_v3"),
    ],
)
def test_invalid_source_is_an_error_with_the_choices(
    source: str, backbone: str, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        resolve_source(source, backbone=backbone)


def test_every_invalid_argument_is_reported() -> None:
    with pytest.raises(UsageError) as caught:
        check_source("inceptoin", backbone="inception_v3", sha256="123", values="mean")

    assert len(caught.value.problems) == 3


def test_path_without_a_checkpoint_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"there is none at .*/model\.ckpt-1\. Check the name"
    ):
        check_source(str(tmp_path / "model.ckpt-1"), backbone="inception_v3")


def test_existing_folder_is_not_taken_for_a_misspelt_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "converted").mkdir()
    (tmp_path / "converted" / "weights.h5").write_bytes(b"")
    monkeypatch.chdir(tmp_path)

    check_source("converted", backbone="inception_v3")
