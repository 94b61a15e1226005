"""The formats of manifests: text files with one line per picture, ours and those of other systems.

    csv          a header with path or uri, label, and optionally split, group and boxes
    jsonl        JSON Lines with the same keys
    vertex       Vertex AI: CSV `[ML_USE,]GCS_FILE_PATH,LABEL` without a header, or JSON Lines with
                 imageGcsUri
    sagemaker    Amazon SageMaker: .lst, `index<tab>class<tab>path`, or an augmented manifest, JSON
                 Lines with source-ref
    azureml      Azure Machine Learning: JSON Lines with image_url
    huggingface  Hugging Face imagefolder: CSV or JSON Lines with file_name

Sources: https://cloud.google.com/vertex-ai/docs/image-data/classification/prepare-data,
https://docs.aws.amazon.com/sagemaker/latest/dg/image-classification.html,
https://docs.aws.amazon.com/sagemaker/latest/dg/augmented-manifest.html,
https://learn.microsoft.com/azure/machine-learning/reference-automl-images-schema,
https://huggingface.co/docs/datasets/image_dataset.
"""

import itertools
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from repot import progress
from repot.errors import UsageError, join_names, nearest_names
from repot.planner.inputs.problems import WrongRows
from repot.planner.inputs.rows import Row
from repot.planner.inputs.tables import guess_delimiter, read_csv_rows, read_json_rows
from repot.records import BOX_EDGES, Box

ManifestFormat = Literal["csv", "jsonl", "vertex", "sagemaker", "azureml", "huggingface"]

_NAME_COLUMNS = ("path", "uri", "file_name")
_COLUMNS = (*_NAME_COLUMNS, "label", "split", "group", *BOX_EDGES, "width", "height")
_MAX_VALUE_LENGTH = 100
_MAX_OTHER_COLUMNS = 50
_REQUIRED_KEYS: dict[str, ManifestFormat] = {
    "imageGcsUri": "vertex",
    "source-ref": "sagemaker",
    "image_url": "azureml",
    "file_name": "huggingface",
    "path": "jsonl",
    "uri": "jsonl",
}
_ML_USES = ("training", "train", "validation", "validate", "test", "unassigned")
_ML_USE_LABEL = "aiplatform.googleapis.com/ml_use"
_LST_LINE = re.compile(r"\d+\t[^\t]+(\t[^\t]+)+\s*")
_METADATA_SUFFIX = "-metadata"
_NUMBER = re.compile(r"\d+(\.0*)?")


def manifest_format(head: str) -> ManifestFormat | None:
    """Return the format of a text file that begins with these lines; None if it is none of them.

    Args:
        head: The beginning of the text, at least its first line.
    """
    first = next((line for line in head.splitlines() if line.strip()), "")
    if first.lstrip().startswith("{"):
        return _json_format(first)
    if _LST_LINE.fullmatch(first):
        return "sagemaker"
    delimiter = guess_delimiter(first, _COLUMNS)
    cells = [cell.strip().strip('"') for cell in first.split(delimiter)]
    if _has_header(cells):
        names = [cell.lower() for cell in cells]
        return "huggingface" if "file_name" in names else "csv"
    is_vertex = cells[0].lower() in _ML_USES or cells[0].startswith("gs://")
    return "vertex" if is_vertex and any(cell.startswith("gs://") for cell in cells[:2]) else None


def read_manifest_rows(
    text: str, manifest_format: ManifestFormat, uri: str, wrong: WrongRows
) -> list[Row]:
    """Return the rows of a manifest; what is wrong with others is collected.

    Args:
        text: The whole file.
        manifest_format: Its format.
        uri: Its location, for messages.
        wrong: Collects the rows that are wrong.

    Raises:
        UsageError: The header is wrong, or the text is not in that format.
    """
    if text.lstrip().startswith("{"):
        return list(_read_json(text, manifest_format, uri, wrong))
    if manifest_format == "vertex":
        return list(_read_vertex_csv(text, wrong))
    if manifest_format == "sagemaker":
        return list(_read_lst(text, wrong))
    if manifest_format in ("jsonl", "azureml"):
        raise UsageError(
            f"A manifest with input_format={manifest_format} must have one JSON object per line; "
            f"{uri} has none. Choose another --input-format, or auto."
        )
    return list(_read_csv(text, uri, wrong))


def _json_format(line: str) -> ManifestFormat | None:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        # A long line may be cut off.
        keys = [key for key in _REQUIRED_KEYS if f'"{key}"' in line]
    else:
        keys = [key for key in _REQUIRED_KEYS if key in value]
    return _REQUIRED_KEYS[keys[0]] if keys else None


def _has_header(cells: Sequence[str]) -> bool:
    """Return whether cells are names of columns: one that names the picture, or the label."""
    return any(cell.lower() in (*_NAME_COLUMNS, "label") for cell in cells)


def _read_csv(text: str, uri: str, wrong: WrongRows) -> Iterator[Row]:
    """Yield the rows of a CSV file with a header."""
    first_line = text.lstrip("\r\n").partition("\n")[0]
    rows = read_csv_rows(text, guess_delimiter(first_line, _COLUMNS), wrong)
    _, header = next(rows, (0, []))
    columns = [name.strip().lower() for name in header]
    _check_columns(columns, uri)
    for number, cells in rows:
        where = f"line {number}"
        if len(cells) != len(columns):
            wrong.add(
                where,
                f"it has {len(cells)} cells, but the header has {len(columns)}; quote cells that "
                "contain the separator",
                number=number,
            )
            continue
        row = _to_row(number, dict(zip(columns, cells, strict=True)), wrong)
        if row:
            yield row


def _check_columns(columns: Sequence[str], uri: str) -> None:
    """Check the header of a CSV file.

    Raises:
        UsageError: A column is missing, repeated, or ambiguous.
    """
    known = [name for name in columns if name in _COLUMNS]
    names = [name for name in columns if name in _NAME_COLUMNS]
    problems = []
    if repeated := sorted({name for name in known if known.count(name) > 1}):
        problems.append(f"it has {join_names(map(repr, repeated))} more than once")
    elif len(names) > 1:
        problems.append(f"it has {join_names(map(repr, names))}, which name the same thing")
    if not names:
        problems.append(f"it has no column path or uri{_nearest(columns, _NAME_COLUMNS)}")
    if "label" not in columns and "file_name" not in columns:
        problems.append(f"it has no column label{_nearest(columns, ('label',))}")
    edges = [edge for edge in BOX_EDGES if edge in columns]
    if 0 < len(edges) < len(BOX_EDGES):
        problems.append(f"of {', '.join(BOX_EDGES)} it has only {', '.join(edges)}")
    if problems:
        raise UsageError(
            "The first line of a manifest must name the columns, path or uri and label among them; "
            f"in {uri}, {'; '.join(problems)}. Its columns are {join_names(map(repr, columns))}."
        )


def _nearest(columns: Sequence[str], names: Sequence[str]) -> str:
    near = next((near for name in names if (near := nearest_names(name, columns))), [])
    return f", but {near[0]!r}" if near else ""


def _to_row(number: int, cells: Mapping[str, Any], wrong: WrongRows) -> Row | None:
    """Return the row of our own format, or of Hugging Face's; None if it is wrong."""
    where = f"line {number}"
    name = next((cells[key] for key in _NAME_COLUMNS if cells.get(key)), "")
    if not isinstance(name, str) or not name.strip():
        wrong.add(where, "it names no picture", number=number)
        return None
    label = _label_text(cells.get("label", ""))
    if label is None:
        wrong.add(where, f"the label must be one text; got {cells['label']!r}", number=number)
        return None
    if "label" not in cells and "file_name" in cells:
        # Without a column for it, the folder is the label, as it is without a metadata file.
        label = name.strip().rpartition("/")[0].rpartition("/")[2]
    label = wrong.check_label(where, label, number=number)
    split = wrong.check_split(where, str(cells.get("split") or ""), number=number)
    boxes = _boxes(where, number, cells, label, wrong)
    if not label or split is None or boxes is None:
        return None
    group = str(cells.get("group") or "").strip()
    return Row(
        number=number,
        name=name.strip(),
        label=label,
        split=split,
        group=group,
        boxes=boxes,
        columns=_other_columns(cells),
    )


def _other_columns(cells: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Return the columns that have no meaning for repot, sorted by name.

    A text that is longer than a category's name is left out, and so is a value of several parts.
    """
    columns = []
    for name, value in cells.items():
        if name in _COLUMNS or not isinstance(value, str | int | float):
            continue
        text = str(value).strip()
        if 0 < len(text) <= _MAX_VALUE_LENGTH and 0 < len(name) <= _MAX_VALUE_LENGTH:
            columns.append((sys.intern(name), sys.intern(text)))
    return tuple(sorted(columns)[:_MAX_OTHER_COLUMNS])


def _label_text(value: Any) -> str | None:
    """Return a label as text; None if it is no single label."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if value is None:
        return ""
    is_text = isinstance(value, str | int) and not isinstance(value, bool)
    return str(value) if is_text else None


def _boxes(
    where: str, number: int, cells: Mapping[str, Any], label: str, wrong: WrongRows
) -> tuple[Box, ...] | None:
    """Return the boxes of a row of our own format; None if one is wrong."""
    if "boxes" in cells:
        listed = cells["boxes"]
        if not isinstance(listed, list):
            wrong.add(where, "boxes must be a list of lists of four numbers", number=number)
            return None
    elif _has_objects(cells):
        if not _has_size(cells):
            return ()
        listed = _listed_objects(cells["objects"])
        if listed is None:
            problem = "objects must have equally many bbox, [x, y, width, height], and categories"
            wrong.add(where, problem, number=number)
            return None
    else:
        edges = [cells.get(edge, "") for edge in BOX_EDGES]
        if all(isinstance(edge, str) and not edge.strip() for edge in edges):
            return ()
        listed = [edges]
    boxes = []
    for values in listed:
        is_object = isinstance(values, dict)
        edges = [values.get(edge) for edge in BOX_EDGES] if is_object else values
        box_label = str(values.get("label") or label) if is_object else label
        try:
            box = make_box(
                edges, width=cells.get("width"), height=cells.get("height"), label=box_label
            )
        except ValueError as err:
            wrong.add(where, str(err), number=number)
            return None
        boxes.append(box)
    return tuple(boxes)


def _has_objects(cells: Mapping[str, Any]) -> bool:
    """Return whether a row has boxes as Hugging Face's metadata.jsonl has them."""
    objects = cells.get("objects")
    return "file_name" in cells and isinstance(objects, dict) and "bbox" in objects


def _has_size(cells: Mapping[str, Any]) -> bool:
    return bool(cells.get("width") and cells.get("height"))


def _listed_objects(objects: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """Return Hugging Face's boxes with edges and label; None if they are not valid.

    Source: https://huggingface.co/docs/datasets/image_dataset, object detection.
    """
    boxes = objects["bbox"]
    names = objects.get("categories", objects.get("category"))
    if not isinstance(boxes, list) or not isinstance(names, list | None):
        return None
    if names is not None and len(names) != len(boxes):
        return None
    listed = []
    for box, name in zip(boxes, names or [None] * len(boxes), strict=True):
        try:
            x, y, width, height = map(float, box)
        except (TypeError, ValueError):
            return None
        edges = dict(zip(BOX_EDGES, (x, y, x + width, y + height), strict=True))
        # A number stands for a name that only the dataset's own code knows.
        listed.append(edges | {"label": name if isinstance(name, str) else ""})
    return listed


def make_box(edges: Any, *, width: Any = None, height: Any = None, label: str = "") -> Box:
    """Return a box.

    Args:
        edges: xmin, ymin, xmax and ymax: pixels if width and height are given, otherwise fractions.
        width, height: The picture's size in pixels; None or "" if it is not given.
        label: Name of what is in the box.

    Raises:
        ValueError: It is not a box; the message says why.
    """
    try:
        xmin, ymin, xmax, ymax = map(float, edges)
    except (TypeError, ValueError):
        raise ValueError(f"a box must have four numbers; got {edges!r}") from None
    try:
        sizes = (float(width or 1), float(height or 1))
    except (TypeError, ValueError):
        problem = f"width and height must be numbers; got {width!r} and {height!r}"
        raise ValueError(problem) from None
    is_ordered = 0 <= xmin < xmax <= sizes[0] and 0 <= ymin < ymax <= sizes[1]
    if not is_ordered:
        unit = (
            f"within {sizes[0]:g} x {sizes[1]:g} pixels"
            if width and height
            else "fractions of the picture within 0..1, or pixels with columns width and height"
        )
        raise ValueError(
            f"a box must have xmin < xmax and ymin < ymax, {unit}; got "
            f"{xmin:g}, {ymin:g}, {xmax:g}, {ymax:g}"
        )
    return Box(
        xmin=xmin / sizes[0],
        ymin=ymin / sizes[1],
        xmax=xmax / sizes[0],
        ymax=ymax / sizes[1],
        label=label,
    )


def _read_vertex_csv(text: str, wrong: WrongRows) -> Iterator[Row]:
    for number, row in read_csv_rows(text, ",", wrong):
        where = f"line {number}"
        cells = [cell.strip() for cell in row]
        use = "" if cells[0].startswith("gs://") else cells.pop(0)
        name, *labels = cells or [""]
        labels = [label for label in labels if label]
        if not name.startswith("gs://"):
            wrong.add(where, f"it must name a gs:// URI; got {name!r}", number=number)
        elif len(labels) > 1:
            wrong.add(where, f"a picture must have one label; got {labels}", number=number)
        else:
            label = wrong.check_label(where, labels[0] if labels else "", number=number)
            split = wrong.check_split(where, use, number=number)
            if label and split is not None:
                yield Row(number=number, name=name, label=label, split=split)


def _read_lst(text: str, wrong: WrongRows) -> Iterator[Row]:
    for number, line in enumerate(text.splitlines(), start=1):
        where = f"line {number}"
        if not line.strip():
            continue
        cells = [cell.strip() for cell in line.split("\t")]
        if len(cells) != 3:
            problem = f"it must be an index, a class and a path, with tabs between; got {line!r}"
            wrong.add(where, problem, number=number)
            continue
        # MXNet's im2rec writes classes as 3.000000.
        label = cells[1].partition(".")[0] if _NUMBER.fullmatch(cells[1]) else cells[1]
        if label := wrong.check_label(where, label, number=number):
            yield Row(number=number, name=cells[2], label=label)


def _read_json(
    text: str, manifest_format: ManifestFormat, uri: str, wrong: WrongRows
) -> Iterator[Row]:
    rows = read_json_rows(text, wrong)
    first = next(rows, None)
    if first is None:
        return
    label_key = _ground_truth_key(first[1], uri) if manifest_format == "sagemaker" else ""
    num_without_size = 0
    for number, value in itertools.chain([first], rows):
        if manifest_format == "vertex":
            row = _vertex_row(number, value, wrong)
        elif manifest_format == "sagemaker":
            row = _augmented_row(number, value, label_key, wrong)
        elif manifest_format == "azureml":
            cells = {"path": value.get("image_url"), "label": value.get("label", "")}
            row = _to_row(number, cells, wrong)
        else:
            num_without_size += _has_objects(value) and not _has_size(value)
            row = _to_row(number, value, wrong)
        if row:
            yield row
    if num_without_size:
        progress.notice(
            "plan",
            f"{num_without_size} of the rows of {uri} have boxes in pixels without the size of the "
            "picture, so these boxes are not read. Add the keys width and height.",
            is_warning=True,
        )


def _vertex_row(number: int, value: Mapping[str, Any], wrong: WrongRows) -> Row | None:
    annotations = value.get("classificationAnnotations", [])
    one = value.get("classificationAnnotation")
    found = ([one] if one else []) + (annotations if isinstance(annotations, list) else [])
    labels = [each.get("displayName", "") for each in found if isinstance(each, dict)]
    resources = value.get("dataItemResourceLabels")
    use = resources.get(_ML_USE_LABEL, "") if isinstance(resources, dict) else ""
    if len(labels) > 1:
        wrong.add(f"line {number}", f"a picture must have one label; got {labels}", number=number)
        return None
    cells = {"path": value.get("imageGcsUri"), "label": labels[0] if labels else "", "split": use}
    return _to_row(number, cells, wrong)


def _ground_truth_key(value: Mapping[str, Any], uri: str) -> str:
    """Return the key of the labels in an augmented manifest.

    Raises:
        UsageError: Several keys could be it, or none.
    """
    names = [key for key in value if key != "source-ref" and not key.endswith(_METADATA_SUFFIX)]
    described = [
        key
        for key in names
        if isinstance(metadata := value.get(key + _METADATA_SUFFIX), dict)
        and "class-name" in metadata
    ]
    for choices in (described, [key for key in names if key == "class"], names):
        if len(choices) == 1:
            return choices[0]
    raise UsageError(
        "An augmented manifest must have one key with the class of the picture beside source-ref; "
        f"the first line of {uri} has {join_names(map(repr, names)) or 'none'}. Keep one of them."
    )


def _augmented_row(
    number: int, value: Mapping[str, Any], label_key: str, wrong: WrongRows
) -> Row | None:
    metadata = value.get(label_key + _METADATA_SUFFIX)
    name = metadata.get("class-name") if isinstance(metadata, dict) else None
    label = name if isinstance(name, str) else value.get(label_key, "")
    return _to_row(number, {"path": value.get("source-ref"), "label": label}, wrong)
