"""The folder that a user names for the pictures: there, a folder, and not empty, or what to do about it."""

from repot import storage
from repot.errors import NoBucketError, UsageError


def list_folder(uri: str) -> list[storage.ObjectInfo]:
    """Return every file below the folder, sorted; there is at least one.

    Raises:
        UsageError: The folder or its bucket is missing, or it is a file, or it holds nothing.
        StorageError: It cannot be listed now.
    """
    try:
        infos = storage.list_objects(uri)
    except NoBucketError as err:
        raise UsageError(f"The pictures' folder must exist; {err}") from err
    if not infos:
        raise UsageError(_why_nothing(uri))
    return infos


def _why_nothing(uri: str) -> str:
    if not storage.is_local(uri):
        return f"The pictures' folder must hold pictures; there is nothing under {uri}/. Check the name."
    path = storage.local_path(uri)
    if path.is_dir():
        return f"The pictures' folder must hold pictures; {uri} is empty. Put a folder for each label into it."
    if path.exists():
        return f"The pictures must lie in a folder; {uri} is a file. Give the folder that holds the label folders."
    return f"The pictures' folder must exist; there is no {uri}. Check the name."
