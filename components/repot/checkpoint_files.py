"""The files of a checkpoint at a path or URI, and a version that changes when they change.

    a file                the file itself: an archive, weights, or a TensorFlow V1 checkpoint
    P, P.index, P.data-*  all files P.* of a TensorFlow V2 checkpoint
    a folder              the newest checkpoint in its `checkpoint` file, a preset of KerasHub, or
                          the weights of repot
Only names are examined, not contents.
"""

import hashlib
import http
import logging
import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass

from repot import storage
from repot.errors import CheckpointError, innermost_reason
from repot.hub_backbone import PRESET_NAMES
from repot.layout import WEIGHTS_NAME
from repot.masking import mask, redact_url, secret_parts
from repot.tls import CA_VARIABLES, find_ca_bundle

_V2_PART = re.compile(r"\.(index|data-\d{5}-of-\d{5})$")
_STATE_LINE = re.compile(r'^model_checkpoint_path: *"([^"]+)"', re.MULTILINE)
# Connect, read. A version is a convenience: an unreachable server must not delay a run for long.
_HEAD_TIMEOUT_SECONDS = (3, 5)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointFiles:
    """The files of one checkpoint.

    Attributes:
        uris: Sorted; several for a V2 checkpoint, one for every other kind.
        version: Changes when one of the files changes; "" for a file on the web.
    """

    uris: tuple[str, ...]
    version: str = ""


def is_web(uri: str) -> bool:
    """Return whether `uri` is an http(s) URL."""
    return uri.lower().startswith(("http://", "https://"))


def files_sha256(digests: Mapping[str, str]) -> str:
    """Return the checksum of the files of a checkpoint.

    That of a single file is its SHA-256. That of several is the SHA-256 of the lines that
    `sha256sum FILE...` prints for them, in the order of their names.

    Args:
        digests: SHA-256 of each file by its name.
    """
    if len(digests) == 1:
        return next(iter(digests.values()))
    text = "".join(f"{digests[name]}  {name}\n" for name in sorted(digests))
    return hashlib.sha256(text.encode()).hexdigest()


def find_files(uri: str) -> CheckpointFiles:
    """Find the files of a checkpoint; a web server is not contacted.

    Raises:
        CheckpointError: There is no such file, prefix or folder.
    """
    if is_web(uri):
        return CheckpointFiles(uris=(uri,))
    for find in (_single_file, _v2_files, _folder_files):
        found = find(uri)
        if found:
            version = " ".join(info.version for info in found)
            return CheckpointFiles(uris=tuple(info.uri for info in found), version=version)
    raise CheckpointError(
        "A checkpoint must be a file, the prefix of a TensorFlow checkpoint, or a folder with a "
        f"`checkpoint` file or {WEIGHTS_NAME}; there is none at {uri}. Check the name."
    )


def find_version(uri: str) -> str | None:
    """Return a text that changes whenever the files of a checkpoint change.

    Returns:
        For the web, the server's ETag or Last-Modified header, or "" if it sends neither; None if
        the server is unreachable or does not respond to a HEAD request with 200.

    Raises:
        CheckpointError: There is no such file, prefix or folder.
    """
    return _web_version(uri) if is_web(uri) else find_files(uri).version


def _web_version(url: str) -> str | None:
    import requests

    try:
        reply = requests.head(
            url,
            timeout=_HEAD_TIMEOUT_SECONDS,
            allow_redirects=True,
            verify=find_ca_bundle(*CA_VARIABLES) or True,
        )
    except requests.RequestException as err:
        _log.warning(
            "%s: the HEAD request failed (%s); cannot tell whether the file changed",
            redact_url(url),
            mask(innermost_reason(err), secret_parts(url)),
        )
        return None
    if reply.status_code != http.HTTPStatus.OK:
        _log.warning(
            "%s: the server answered %d to a HEAD request; cannot tell whether the file changed",
            redact_url(url),
            reply.status_code,
        )
        return None
    return reply.headers.get("ETag") or reply.headers.get("Last-Modified", "")


def _single_file(uri: str) -> list[storage.ObjectInfo]:
    info = None if _V2_PART.search(uri) else storage.stat(uri)
    return [info] if info else []


def _v2_files(uri: str) -> list[storage.ObjectInfo]:
    """Return the index and data files of a V2 checkpoint, from its prefix or any one of them."""
    prefix = _V2_PART.sub("", uri)
    index = storage.stat(f"{prefix}.index")
    if index is None:
        return []
    only = storage.stat(f"{prefix}.data-00000-of-00001")
    listed = [only] if only else storage.list_objects(storage.parent(prefix))
    data = [
        info
        for info in listed
        if info.uri.startswith(f"{prefix}.data-") and _V2_PART.search(info.uri)
    ]
    return sorted([index, *data], key=lambda info: info.uri)


def _folder_files(uri: str) -> list[storage.ObjectInfo]:
    """Return the files that a folder's `checkpoint` file names, a preset, or the weights of repot.

    The `checkpoint` file may hold an absolute path from before the folder was moved, so only the
    last part of the path counts.
    """
    state_uri = storage.join(uri, "checkpoint")
    if not storage.exists(state_uri):
        preset = [storage.stat(storage.join(uri, name)) for name in PRESET_NAMES]
        if preset[0] and preset[-1]:
            return [info for info in preset if info]
        return _single_file(storage.join(uri, WEIGHTS_NAME))
    match = _STATE_LINE.search(storage.read_text(state_uri))
    if match is None:
        raise CheckpointError(
            f"{state_uri} must name a checkpoint (model_checkpoint_path); it does not."
        )
    newest = storage.join(uri, posixpath.basename(match[1]))
    found = _v2_files(newest) or _single_file(newest)
    if not found:
        raise CheckpointError(
            f"{state_uri} must name a checkpoint in its own folder; there is no {newest}."
        )
    return found
