import errno
import os
from pathlib import Path

import pytest

from repot.errors import AlreadyExistsError, NotFoundError, StorageError
from repot.storage.local.errors import convert_os_errors

PATH = Path("/storage/x")


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.EACCES, "permission is denied"),
        (errno.EROFS, "read-only"),
        (errno.ENOSPC, "the disk is full. Free some space"),
        (errno.EDQUOT, "quota is used up"),
        (errno.ENOTDIR, "is a file and not a folder"),
        (errno.EIO, "Check the disk"),
        (errno.ESTALE, "Mount it again"),
        (errno.EBUSY, "Device or resource busy"),
    ],
)
def test_os_error_becomes_one_message_with_reason_and_advice(number: int, reason: str) -> None:
    message = rf"^/storage/x cannot be written: .*{reason}.*\.$"
    with (
        pytest.raises(StorageError, match=message) as caught,
        convert_os_errors("written", PATH),
    ):
        raise OSError(number, os.strerror(number), str(PATH))
    assert isinstance(caught.value.__cause__, OSError)


def test_path_of_the_os_error_is_named_if_it_differs() -> None:
    with (
        pytest.raises(StorageError, match=r"\(It failed at /storage\.\)$"),
        convert_os_errors("written", PATH),
    ):
        raise PermissionError(errno.EACCES, "Permission denied", "/storage")


def test_missing_file_raises_not_found_error() -> None:
    with (
        pytest.raises(NotFoundError, match="/storage/x cannot be read: there is no such file"),
        convert_os_errors("read", PATH),
    ):
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(PATH))


def test_link_to_a_missing_file_is_named_as_a_link(tmp_path: Path) -> None:
    link = tmp_path / "a.jpg"
    link.symlink_to("missing.jpg")
    with (
        pytest.raises(NotFoundError, match="is a link to a file that does not exist"),
        convert_os_errors("read", link),
    ):
        link.read_bytes()


def test_repot_errors_are_not_converted() -> None:
    with pytest.raises(AlreadyExistsError, match="there"), convert_os_errors("written", PATH):
        raise AlreadyExistsError("there")
