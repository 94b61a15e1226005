"""Which files a checkpoint consists of, given a path or a URI.

    a file                itself: an archive, weights, or a TensorFlow checkpoint of the first format (V1)
    P, P.index, P.data-*  all files P.* of a TensorFlow checkpoint of the second format (V2)
    a folder              the newest checkpoint of its `checkpoint` file, or the weights that repot put there
Only names are looked at, not contents.
"""

import posixpath
import re
import urllib.parse
from dataclasses import dataclass

from repot import storage
from repot.errors import CheckpointError

# The two files of a converted checkpoint; the second one is written last.
WEIGHTS_NAME = "weights.h5"
FACTS_NAME = "checkpoint.json"

_V2_PART = re.compile(r"\.(index|data-\d{5}-of-\d{5})$")
_STATE_LINE = re.compile(r'^model_checkpoint_path: *"([^"]+)"', re.MULTILINE)


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointFiles:
    """The files of one checkpoint.

    Attributes:
        uris: Sorted; one for most kinds, several for a V2 checkpoint.
        version: Changes whenever one of the files does; "" on the web, where nothing is looked up.
    """

    uris: tuple[str, ...]
    version: str = ""


def is_web(uri: str) -> bool:
    """Return whether `uri` is downloaded by http."""
    return uri.lower().startswith(("http://", "https://"))


def without_secrets(url: str) -> str:
    """Return a URL without user name, password and query, which may be a signature; anything else as it is."""
    if "://" not in url:
        return url
    parts = urllib.parse.urlsplit(url)
    return urllib.parse.urlunsplit(
        (parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", "")
    )


def find_files(uri: str) -> CheckpointFiles:
    """Return the files of a checkpoint; on the web nothing is looked up.

    Raises:
        CheckpointError: There is no such file, prefix or folder.
    """
    if is_web(uri):
        return CheckpointFiles(uris=(uri,))
    for look in (_single_file, _v2_files, _folder_files):
        found = look(uri)
        if found:
            version = " ".join(info.version for info in found)
            return CheckpointFiles(uris=tuple(info.uri for info in found), version=version)
    raise CheckpointError(
        f"A checkpoint must be a file, the prefix of a TensorFlow checkpoint, or a folder with a `checkpoint` file or "
        f"{WEIGHTS_NAME}; there is none at {uri}. Check the name."
    )


def _single_file(uri: str) -> list[storage.ObjectInfo]:
    info = None if _V2_PART.search(uri) else storage.stat(uri)
    return [info] if info else []


def _v2_files(uri: str) -> list[storage.ObjectInfo]:
    """Return the index and data files of a V2 checkpoint, given its prefix or one of them."""
    prefix = _V2_PART.sub("", uri)
    index = storage.stat(f"{prefix}.index")
    if index is None:
        return []
    only = storage.stat(f"{prefix}.data-00000-of-00001")
    listed = [only] if only else storage.list_objects(posixpath.dirname(prefix))
    data = [
        info
        for info in listed
        if info.uri.startswith(f"{prefix}.data-") and _V2_PART.search(info.uri)
    ]
    return sorted([index, *data], key=lambda info: info.uri)


def _folder_files(uri: str) -> list[storage.ObjectInfo]:
    """Return the files that a folder's `checkpoint` file names, without believing its folder, or repot's weights."""
    state_uri = storage.join(uri, "checkpoint")
    if not storage.exists(state_uri):
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
            f"{state_uri} must name a checkpoint beside it; there is no {newest}."
        )
    return found
