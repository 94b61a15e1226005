"""Add to the pictures what other files state: bounding boxes, and what synsets mean.

These are the additional inputs of the second program of 2016, build_imagenet_data.py: its labels
are synsets (ids of meanings in WordNet, such as n01440764), a metadata file has a text for each,
and a CSV file or a folder of XML files has bounding boxes.
"""

import dataclasses
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import PurePosixPath

from repot import progress, storage
from repot.errors import UsageError, join_names
from repot.manifest import Rejection
from repot.planner.inputs.boxes import BoxIndex, read_boxes
from repot.planner.inputs.inventory import CandidatePicture, Inventory, PictureTable
from repot.planner.inputs.problems import WrongRows
from repot.planner.inputs.tables import read_file_text

_IMAGENET_SUFFIX = ".JPEG"


def add_texts(inventory: Inventory, metadata_uri: str, labels: Collection[str]) -> Inventory:
    """Return the inventory with the texts of a metadata file of lines `<synset><tab><text>`.

    As in 2016, pictures are then only the files named .JPEG; if there is none, all files.

    Args:
        inventory: The pictures.
        metadata_uri: The metadata file.
        labels: The labels that must have a text.

    Raises:
        UsageError: The file is missing, a line is wrong, or a label has no text.
    """
    info = storage.stat(metadata_uri)
    if info is None:
        raise UsageError(
            f"The metadata file must exist and be a file; there is no file {metadata_uri}. "
            "Check the name."
        )
    wrong = WrongRows(metadata_uri, "line", must="be <synset><tab><text>")
    texts: dict[str, str] = {}
    for number, line in enumerate(read_file_text(info).splitlines(), start=1):
        synset, tab, text = line.strip().partition("\t")
        if tab and synset and text.strip() and "\t" not in text.strip():
            texts[synset] = text.strip()
        elif line.strip():
            wrong.add(f"line {number}", f"got {line.strip()[:80]!r}", number=number)
    wrong.raise_if_any()
    if missing := sorted(set(labels) - set(texts)):
        raise UsageError(
            "Every label must have a text in the metadata file; "
            f"{join_names(map(repr, missing))} {'has' if len(missing) == 1 else 'have'} none in "
            f"{metadata_uri}. Add a line <synset><tab><text> for each."
        )
    pictures = inventory.candidates
    named: list[int] = []
    others: list[int] = []
    for number, path in enumerate(pictures.files.paths):
        (named if path.endswith(_IMAGENET_SUFFIX) else others).append(number)
    if not named:
        named, others = others, []
    return dataclasses.replace(
        inventory,
        texts=texts,
        candidates=pictures.take(named),
        rejected=_with_rejections(
            inventory, [pictures[number] for number in others], "other_extension"
        ),
    )


def add_boxes(
    inventory: Inventory, boxes_uri: str, labels: Collection[str], *, several_labels: bool = False
) -> Inventory:
    """Return the inventory with the boxes of a CSV file or of a folder of XML files.

    A box of another label is skipped, as in 2016: one whose name is a label, but not the picture's.

    Args:
        inventory: The pictures.
        boxes_uri: See `repot.planner.inputs.boxes`.
        labels: All labels.
        several_labels: Keep the boxes of other labels, too.

    Raises:
        UsageError: The boxes are missing or wrong.
        StorageError: They cannot be read.
    """
    index = read_boxes(boxes_uri)
    known = set() if several_labels else set(labels)
    pictures = inventory.candidates
    num_foreign = 0
    # Number of pictures by the name under which they have boxes.
    used: Counter[str] = Counter()
    pictures.boxes = {}
    for number, label in enumerate(pictures.labels):
        name, found = index.find(pictures.files.paths[number])
        own = tuple(box for box in found if box.label == label or box.label not in known)
        num_foreign += len(found) - len(own)
        if name:
            used[name] += 1
        if own:
            pictures.boxes[number] = own
    _announce(index, pictures, used, num_foreign=num_foreign)
    if index.num_pictures and not used:
        names = [*index.by_name, *index.by_stem]
        raise UsageError(
            f"The bounding boxes must be of the pictures; none of the {index.num_pictures} names "
            f"in {boxes_uri}, such as {names[0]!r}, is that of a picture. Check the file."
        )
    return dataclasses.replace(inventory, has_boxes=True)


def crop_to_boxes(inventory: Inventory, labels: Collection[str]) -> Inventory:
    """Return the inventory with one example per box instead of the pictures.

    The label is that of the box if it is one of the labels, otherwise the picture's. The name is
    the picture's with the number of the box before its extension, such as x.box1.jpg. Examples of
    one picture are a group, so they belong to one split.
    """
    known = set(labels)
    candidates, without = PictureTable(), []
    for candidate in inventory.candidates:
        if not candidate.boxes:
            without.append(candidate)
        for number, box in enumerate(candidate.boxes, start=1):
            path = PurePosixPath(candidate.file.path)
            name = str(path.with_name(f"{path.stem}.box{number}{path.suffix}"))
            candidates.append(
                dataclasses.replace(
                    candidate,
                    file=dataclasses.replace(candidate.file, path=name),
                    label=box.label if box.label in known else candidate.label,
                    group=candidate.group or candidate.file.path,
                    boxes=(),
                    crop=dataclasses.replace(box, label=""),
                )
            )
    return dataclasses.replace(
        inventory,
        candidates=candidates,
        rejected=_with_rejections(inventory, without, "no_box"),
        has_boxes=False,
    )


def _with_rejections(
    inventory: Inventory, candidates: Collection[CandidatePicture], reason: str
) -> tuple[Rejection, ...]:
    """Return the rejected files together with these pictures."""
    added = [
        Rejection(path=each.file.path, label=each.label, split=each.split, reason=reason)
        for each in candidates
    ]
    return tuple(sorted([*inventory.rejected, *added], key=lambda rejection: rejection.path))


def _announce(
    index: BoxIndex, pictures: PictureTable, used: Mapping[str, int], *, num_foreign: int
) -> None:
    """Report the numbers that process_bounding_boxes.py reports, and names that are ambiguous."""
    num_boxes = sum(map(len, pictures.boxes.values()))
    line = f"{num_boxes} bounding boxes in {len(pictures.boxes)} of {len(pictures)} pictures"
    skipped = {
        "have no area": index.num_empty,
        "are of another label than their picture": num_foreign,
    }
    reasons = [f"{count} that {why}" for why, count in skipped.items() if count]
    if reasons:
        line += f"; skipped {' and '.join(reasons)}"
    if unused := index.num_pictures - len(used):
        line += f"; {unused} other pictures with boxes are not in the input"
    progress.notice("plan", line)
    if shared := [name for name, num_pictures in used.items() if num_pictures > 1]:
        progress.notice(
            "plan",
            "Boxes belong to a picture by its base name, and several pictures have the names "
            f"{join_names(map(repr, shared), 3)}; each of them got the boxes. Rename them if they "
            "are not copies of one picture.",
            is_warning=True,
        )
