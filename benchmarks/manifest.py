"""Measure how long it takes to validate a manifest of 100,000 pictures.

    make manifest-speed
    .venv/bin/python benchmarks/manifest.py [ROWS]

The pictures are empty files in 100 folders of a temporary folder. The manifest is read as CSV and
as JSON Lines: every row is parsed and checked, and every file looked up. Then every tenth row is
made wrong, and the error is measured too. The baseline is `assign_labels` on a folder with the same
files, which is what listing them without a manifest takes. It prints the processor time.
"""

import json
import sys
import tempfile
import time
from pathlib import Path

from repot.errors import UsageError
from repot.planner.inputs.read import ReadOptions, read_inventory
from repot.planner.listing import PictureRoots

NUM_ROWS = 100_000
NUM_FOLDERS = 100
LIMIT_SECONDS = 10.0


def main() -> None:
    """Print the processor time of each input."""
    num_rows = int(sys.argv[1]) if len(sys.argv) > 1 else NUM_ROWS
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, "pictures")
        names = [f"{number % NUM_FOLDERS:03d}/{number:07d}.jpg" for number in range(num_rows)]
        for number in range(NUM_FOLDERS):
            (folder / f"{number:03d}").mkdir(parents=True)
        for name in names:
            (folder / name).touch()
        rows = [
            (f"pictures/{name}", f"label {name[:3]}", ("train", "")[name[6] == "0"])
            for name in names
        ]
        csv, jsonl = Path(temporary, "m.csv"), Path(temporary, "m.jsonl")
        csv.write_text("path,label,split\n" + "".join(",".join(row) + "\n" for row in rows))
        keys = ("path", "label", "split")
        jsonl.write_text(
            "".join(json.dumps(dict(zip(keys, row, strict=True))) + "\n" for row in rows)
        )
        wrong = Path(temporary, "wrong.csv")
        text = csv.read_text().splitlines()
        text[1::10] = [line.replace(".jpg", ".jpeg") for line in text[1::10]]
        wrong.write_text("\n".join(text))
        print(f"processor time for {num_rows:,} pictures, limit {LIMIT_SECONDS:.0f} s:")
        for name, path in {
            "folder": folder,
            "csv": csv,
            "jsonl": jsonl,
            "wrong csv": wrong,
        }.items():
            print(f"  {name:<10}{measure(path):6.2f} s")


def read(path: Path) -> None:
    """Read and check all pictures."""
    try:
        read_inventory(PictureRoots(pictures_uri=str(path)), ReadOptions())
    except UsageError as err:
        print(f"  ({str(err).splitlines()[0][-24:]} {len(str(err).splitlines())} lines)")


def measure(path: Path) -> float:
    """Return the processor time in seconds that reading takes."""
    started = time.process_time()
    read(path)
    return time.process_time() - started


if __name__ == "__main__":
    main()
