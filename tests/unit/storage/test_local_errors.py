import errno
import os
from pathlib import Path

import pytest

from repot.errors import AlreadyExistsError, NotFoundError, StorageError
from repot.storage.local.errors import convert_os_errors

PATH = Path("/storage/x")


@pytest.mark.parametrize(
    ("number", "words"),
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
def test_system_error_becomes_one_sentence_and_advice(number: int, words: str) -> None:
    with (
        pytest.raises(
            StorageError, match=rf"^/storage/x cannot be written: .*{words}.*\.$"
        ) as caught,
        convert_os_errors("written", PATH),
    ):
        raise OSError(number, os.strerror(number), str(PATH))
    assert isinstance(caught.value.__cause__, OSError)


def test_other_file_of_the_system_s_complaint_is_named() -> None:
    with (
        pytest.raises(StorageError, match=r"\(It failed at /storage\.\)$"),
        convert_os_errors("written", PATH),
    ):
        raise PermissionError(errno.EACCES, "Permission denied", "/storage")


def test_missing_file_is_not_found() -> None:
    with (
        pytest.raises(NotFoundError, match="/storage/x cannot be read: there is no such file"),
        convert_os_errors("read", PATH),
    ):
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(PATH))


def test_errors_of_repot_pass_through() -> None:
    with pytest.raises(AlreadyExistsError, match="there"), convert_os_errors("written", PATH):
        raise AlreadyExistsError("there")
