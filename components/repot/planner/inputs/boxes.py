"""Bounding boxes from a CSV file, or from a folder of XML files of ImageNet or Pascal VOC.

The CSV file has one line per box, `<base name>,<xmin>,<ymin>,<xmax>,<ymax>`, in fractions of the
picture's size, without a header, as the original's process_bounding_boxes.py writes it. A picture
is found by its base name, in whatever folder it is.

XML files are converted as process_bounding_boxes.py converts them: pixels are truncated to
integers, divided by the size that the file states, swapped where the minimum is larger, clamped to
the picture, and rounded to four decimals; boxes without an area are skipped. A picture is found by
the name of the XML file without its extension, because ImageNet's element `filename` is not
reliable.

    <folder>/n01440764/<picture>.xml  ImageNet: all boxes have the first name in the file
    <folder>/<picture>.xml            Pascal VOC: each box has the name of its object; boxes of
                                      parts of an object are not used

Source: research/inception/inception/data/process_bounding_boxes.py of tensorflow/models.
"""

import math
import re
import xml.etree.ElementTree as ET
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from repot import storage
from repot.errors import UsageError
from repot.planner.inputs.problems import WrongRows
from repot.planner.inputs.tables import guess_delimiter, read_csv_rows, read_file_text
from repot.progress import ProgressCounter
from repot.records import BOX_EDGES, Box

_NUM_READERS = 16
_MAX_XML_BYTES = 1 << 20
_SYNSET = re.compile(r"n\d{8}")


@dataclass(kw_only=True, slots=True)
class BoxIndex:
    """The boxes of a file or folder, in its order.

    Attributes:
        by_name: Boxes by the picture's base name.
        by_stem: Boxes by the picture's base name without its extension.
        num_empty: Number of boxes that were skipped because they have no area.
    """

    by_name: dict[str, list[Box]] = field(default_factory=lambda: defaultdict(list))
    by_stem: dict[str, list[Box]] = field(default_factory=lambda: defaultdict(list))
    num_empty: int = 0

    @property
    def num_pictures(self) -> int:
        """Return the number of pictures that have boxes."""
        return len(self.by_name) + len(self.by_stem)

    def find(self, path: str) -> tuple[str, Sequence[Box]]:
        """Return the name under which a picture has boxes, and the boxes; "" and none without.

        Args:
            path: Path of the picture.
        """
        name = PurePosixPath(path)
        for key, boxes in ((name.name, self.by_name), (name.stem, self.by_stem)):
            if key in boxes:
                return key, boxes[key]
        return "", ()


def read_boxes(uri: str) -> BoxIndex:
    """Return the boxes in a CSV file, or in a folder of XML files.

    Raises:
        UsageError: There is no such file or folder, or lines or files in it are wrong.
        StorageError: It cannot be read.
    """
    info = storage.stat(uri)
    if info is not None:
        return _read_csv_file(info)
    files = [each for each in storage.list_objects(uri) if each.uri.lower().endswith(".xml")]
    if not files:
        raise UsageError(
            "The bounding boxes must be in a CSV file, or in a folder with XML files; "
            f"{uri} is neither. Check the name."
        )
    return _read_xml_files(uri, files)


def _read_csv_file(info: storage.ObjectInfo) -> BoxIndex:
    index = BoxIndex()
    wrong = WrongRows(info.uri, must="have a picture's name, xmin, ymin, xmax and ymax")
    text = read_file_text(info)
    delimiter = guess_delimiter(text.partition("\n")[0], BOX_EDGES)
    for number, cells in read_csv_rows(text, delimiter, wrong):
        where = f"line {number}"
        name, *edges = (cell.strip() for cell in cells)
        if number == 1 and [edge.lower() for edge in edges] == list(BOX_EDGES):
            continue
        try:
            xmin, ymin, xmax, ymax = map(float, edges)
        except ValueError:
            wrong.add(where, f"it must have a name and four numbers; got {cells}", number=number)
            continue
        if not all(0 <= edge <= 1 for edge in (xmin, ymin, xmax, ymax)):
            problem = f"edges must be fractions of the picture, in 0..1; got {', '.join(edges)}"
            wrong.add(where, problem, number=number)
        elif xmin >= xmax or ymin >= ymax:
            index.num_empty += 1
        else:
            index.by_name[name].append(Box(xmin=xmin, ymin=ymin, xmax=xmax, ymax=ymax))
    wrong.raise_if_any()
    return index


def _read_xml_files(uri: str, files: Sequence[storage.ObjectInfo]) -> BoxIndex:
    index = BoxIndex()
    wrong = WrongRows(uri, "file", must="be an annotation of ImageNet or Pascal VOC")
    counter = ProgressCounter("read boxes", len(files), unit="files")
    with ThreadPoolExecutor(_NUM_READERS) as readers:
        contents = readers.map(_read_xml, files)
        for number, (info, content) in enumerate(zip(files, contents, strict=True)):
            counter.add()
            name = storage.relative_name(info.uri, uri)
            if isinstance(content, str):
                wrong.add(name, content, number=number)
                continue
            is_imagenet = bool(_SYNSET.fullmatch(PurePosixPath(name).parent.name))
            boxes = list(_to_boxes(content, is_imagenet=is_imagenet))
            index.num_empty += sum(box is None for box in boxes)
            kept = [box for box in boxes if box]
            if kept:
                index.by_stem[PurePosixPath(name).stem] += kept
    wrong.raise_if_any()
    return index


def _read_xml(info: storage.ObjectInfo) -> "ET.Element | str":
    """Return the root of an XML file, or why it cannot be used."""
    if info.size_bytes > _MAX_XML_BYTES:
        return f"it must have at most {_MAX_XML_BYTES:,} bytes; it has {info.size_bytes:,}"
    data = storage.read_bytes(info.uri, version=info.version)
    if b"<!DOCTYPE" in data or b"<!ENTITY" in data:
        # Entities can name other files, and expand without end.
        return "it must not declare a document type or entities"
    try:
        root = ET.fromstring(data)  # noqa: S314 (no entities)
        sizes = _first_number(root, "width"), _first_number(root, "height")
        edges = [float(each.text or "") for edge in BOX_EDGES for each in root.iter(edge)]
        if not all(map(math.isfinite, (*sizes, *edges))):
            return "sizes and edges must be finite numbers"
        if min(sizes) < 1:
            return "width and height must be at least 1"
    except (ET.ParseError, ValueError) as err:
        return f"it cannot be read: {err}"
    return root


def _to_boxes(root: ET.Element, *, is_imagenet: bool) -> Iterator[Box | None]:
    """Yield every box, None for one without an area."""
    size = {"x": _first_number(root, "width"), "y": _first_number(root, "height")}
    first_name = _text(root.find(".//name"))
    every = [(first_name, each) for each in root.iter() if each.find("xmin") is not None]
    of_objects = [
        (_text(each.find("name")), box)
        for each in root.iter("object")
        for box in each
        if box.find("xmin") is not None
    ]
    for label, element in every if is_imagenet else of_objects:
        edges = {}
        for edge in BOX_EDGES:
            found = element.find(edge)
            pixels = int(float("-1" if found is None else found.text or "-1"))
            edges[edge] = pixels / size[edge[0]]
        xmin, xmax = _ordered(edges["xmin"], edges["xmax"])
        ymin, ymax = _ordered(edges["ymin"], edges["ymax"])
        if xmin >= xmax or ymin >= ymax:
            yield None
            continue
        yield Box(xmin=xmin, ymin=ymin, xmax=xmax, ymax=ymax, label=label)


def _ordered(low: float, high: float) -> tuple[float, float]:
    """Return two edges in order, clamped to the picture, with the four decimals of 2016."""
    low, high = min(low, high), max(low, high)
    return float(f"{max(0.0, low):.4f}"), float(f"{min(1.0, high):.4f}")


def _text(element: ET.Element | None) -> str:
    return "" if element is None else (element.text or "").strip()


def _first_number(root: ET.Element, name: str) -> float:
    element = root.find(f".//{name}")
    return float("0" if element is None else element.text or "0")
