import io
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from repot.shard_builder.appearances import (
    APPEARANCE,
    MappedRows,
    RowWriter,
    appearances_uri,
    copy_appearances,
    write_rows,
)


def random_rows(number: int) -> NDArray[np.void]:
    data = np.random.default_rng(0).integers(0, 128, number * APPEARANCE.itemsize, np.uint8)
    return data.view(APPEARANCE)


@pytest.mark.parametrize("number", [0, 1, 9, 1000])
def test_rows_written_in_parts_are_the_file_of_all(number: int) -> None:
    rows = random_rows(number)
    whole, parts = io.BytesIO(), io.BytesIO()
    np.save(whole, rows)

    writer = RowWriter(parts)
    for part in np.array_split(rows, 3):
        writer.write(part)
    writer.finish()

    assert parts.getvalue() == whole.getvalue()


def resident_bytes(path: Path) -> int:
    """Return how much of a mapped file is in this process."""
    text = Path("/proc/self/smaps").read_text()
    entry = text.partition(f"{path}\n")[2]
    found = re.search(r"^Rss: +(\d+) kB$", entry, re.MULTILINE)
    assert found, f"{path} must be mapped"
    return int(found[1]) * 1024


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_mapped_rows_are_those_of_the_array_and_stay_in_the_file(tmp_path: Path) -> None:
    rows = random_rows(3000)
    path = tmp_path / "rows"
    path.write_bytes(rows.tobytes())

    mapped = MappedRows(path)

    assert len(mapped) == len(rows)
    chosen = np.array([2999, 0, 17, 17])
    for field in APPEARANCE.names or ():
        np.testing.assert_array_equal(mapped[field][chosen], rows[field][chosen])
    np.testing.assert_array_equal(mapped["chroma"][chosen, 1], rows["chroma"][chosen, 1])
    everything = mapped["luminance"][np.arange(len(rows))]
    np.testing.assert_array_equal(everything, rows["luminance"])
    assert path.stat().st_size > 7_000_000
    assert resident_bytes(path) == 0


def test_no_rows_can_be_mapped(tmp_path: Path) -> None:
    (tmp_path / "rows").touch()
    mapped = MappedRows(tmp_path / "rows")
    assert len(mapped) == len(mapped["contrast"]) == 0


def test_only_complete_rows_are_copied(tmp_path: Path) -> None:
    rows = random_rows(40)
    uri = appearances_uri(str(tmp_path), "train-00000-of-00001")
    write_rows(uri, rows)
    stored = Path(uri).read_bytes()

    def copy(number: int) -> bytes | None:
        file = io.BytesIO(b"before")
        file.seek(0, io.SEEK_END)
        is_complete = copy_appearances(str(tmp_path), "train-00000-of-00001", number, file)
        return file.getvalue() if is_complete else None

    assert copy(40) == b"before" + rows.tobytes()
    assert copy(39) is None
    for damaged in (stored[:-1], stored[:30], b"", b"{}"):
        Path(uri).write_bytes(damaged)
        assert copy(40) is None
    Path(uri).unlink()
    assert copy(40) is None
