"""What changes whenever a checkpoint does, asked in a moment: no byte of the checkpoint is fetched."""

import http
import logging

import requests

from repot import checkpoint_files
from repot.checkpoint_files import without_secrets
from repot.checkpoints import Source
from repot.errors import innermost_reason

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
        _log.warning("%s: the request failed (%s); nobody knows whether it changed", without_secrets(url), reason)
        return None
    if reply.status_code != http.HTTPStatus.OK:
        _log.warning("%s: the server answers %d to HEAD", without_secrets(url), reply.status_code)
        return None
    return reply.headers.get("ETag") or reply.headers.get("Last-Modified", "")
