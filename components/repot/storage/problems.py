"""Sentences that every backend says alike."""

from repot.errors import AlreadyExistsError, ConflictError, NotFoundError, StorageError


def already_exists(uri: str) -> AlreadyExistsError:
    """Return the error of a create-only write that came second."""
    return AlreadyExistsError(
        f"{uri} must not exist yet, and it does. Delete it, or choose another name."
    )


def conflict(uri: str, expected_version: str | None) -> ConflictError:
    """Return the error of a swap that came second."""
    expected = "no object there" if expected_version is None else f"version {expected_version}"
    return ConflictError(
        f"{uri} must not change while it is being replaced; expected {expected}, and somebody else wrote it. "
        "Look at what is there now, and run again."
    )


def changed(uri: str) -> NotFoundError:
    """Return the error of a read that is pinned to a version which is gone."""
    return NotFoundError(
        f"{uri} must stay as it was when it was listed; it was changed or deleted since. Run again, to list it anew."
    )


def missing(uri: str) -> NotFoundError:
    """Return the error of reading what is not there."""
    return NotFoundError(f"{uri} cannot be read: there is no such object. Check the name.")


def damaged(uri: str, num_fetches: int) -> StorageError:
    """Return the error of a read whose bytes were never those that the store holds."""
    return StorageError(
        f"{uri} must arrive as it is stored; its CRC32C was another one {num_fetches} times. "
        "Check the network and the proxy, and run again."
    )
