from pathlib import Path

import pytest

from repot import storage
from repot.errors import NotFoundError
from repot.storage import checksums

# Check value of CRC-32C: https://reveng.sourceforge.io/crc-catalogue/17plus.htm#crc.cat.crc-32-iscsi
DIGITS = b"123456789"


def test_crc32c_matches_the_published_check_value() -> None:
    assert storage.crc32c_hex(DIGITS) == "e3069283"


@pytest.mark.parametrize(
    "data", [b"", b"\0", DIGITS, bytes(checksums.BLOCK_BYTES), b"x" * (checksums.BLOCK_BYTES + 1)]
)
def test_crc32c_of_a_file_equals_that_of_its_bytes(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(data)
    assert storage.file_crc32c_hex(tmp_path / "file") == storage.crc32c_hex(data)


def test_crc32c_of_a_missing_file_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=f"{tmp_path}/file"):
        storage.file_crc32c_hex(tmp_path / "file")


def test_base64_conversion_matches_google_in_both_directions() -> None:
    # The checksums of the empty object and of DIGITS, as Google Cloud Storage shows them.
    for digits, digest in {"00000000": "AAAAAA==", "e3069283": "4waSgw=="}.items():
        assert checksums.crc32c_to_base64(digits) == digest
        assert checksums.crc32c_from_base64(digest) == digits
