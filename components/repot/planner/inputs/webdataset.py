"""WebDataset: tar files in which all files with one key are one sample.

    000/17.jpg   the picture; the key is 000/17, the name up to the first dot of its base name
    000/17.cls   its class: a number, or a name

A `.json` file with a key `label`, `cls` or `class` states the label if there is no `.cls` file.
Other files of a sample, such as a caption, are not used.
Source: https://github.com/webdataset/webdataset, README, "The WebDataset Format".
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Literal

from repot.manifest import Rejection, Split
from repot.planner.folders import PICTURE_SUFFIXES
from repot.planner.inputs.inventory import CandidatePicture
from repot.planner.inputs.problems import WrongRows

if TYPE_CHECKING:
    from repot.planner.inputs.archives import Member

_MAX_SIDECAR_BYTES = 1 << 20
_LABEL_KEYS = ("label", "cls", "class")


def sidecar_label(name: str, data: bytes) -> str | None:
    """Return the label that a file beside a picture states; None if it states none."""
    extension = _split_key(name)[1]
    if extension not in ("cls", "json") or len(data) > _MAX_SIDECAR_BYTES:
        return None
    try:
        text = data.decode("utf-8-sig").strip()
        if extension == "cls":
            return text
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict):
        return None
    label = next((value[key] for key in _LABEL_KEYS if key in value), None)
    return str(label) if isinstance(label, str | int) and not isinstance(label, bool) else None


def is_webdataset(members: Iterable["Member"]) -> bool:
    """Return whether pictures in a tar file have files beside them that state their labels."""
    members = list(members)
    labelled = {
        _split_key(member.file.path)[0] for member in members if member.sidecar_label is not None
    }
    return any(
        key in labelled and f".{extension}" in PICTURE_SUFFIXES
        for key, extension in (_split_key(member.file.path) for member in members)
    )


def read_samples(
    members: Sequence["Member"], split: Split | Literal[""], wrong: WrongRows
) -> tuple[list[CandidatePicture], list[Rejection]]:
    """Return the pictures of one tar file, and the files that belong to no sample with a picture.

    Args:
        members: The files in it.
        split: The split that the file belongs to; "" if none.
        wrong: Collects the samples that have no label, or several pictures.
    """
    samples: dict[str, list[Member]] = defaultdict(list)
    for member in members:
        samples[_split_key(member.file.path)[0]].append(member)
    candidates: list[CandidatePicture] = []
    rejected: list[Rejection] = []
    for key, parts in samples.items():
        pictures = [
            each for each in parts if f".{_split_key(each.file.path)[1]}" in PICTURE_SUFFIXES
        ]
        labels = {
            _split_key(each.file.path)[1]: each.sidecar_label
            for each in parts
            if each.sidecar_label is not None
        }
        if not pictures:
            rejected += [
                Rejection(path=each.file.path, label="", split=split, reason="outside_labels")
                for each in parts
            ]
        elif len(pictures) > 1:
            names = ", ".join(each.file.path.rpartition("/")[2] for each in pictures)
            wrong.add(key, f"it has several pictures: {names}")
        elif not labels:
            wrong.add(key, "it has no .cls file, and no .json file with a label")
        else:
            label = wrong.check_label(key, labels.get("cls", labels.get("json", "")))
            candidates.append(CandidatePicture(file=pictures[0].file, label=label, split=split))
    return candidates, rejected


def _split_key(name: str) -> tuple[str, str]:
    """Return a file's key, and its extension in lower case without the first dot."""
    folder, slash, base = name.rpartition("/")
    stem, _, extension = base.partition(".")
    return f"{folder}{slash}{stem}", extension.lower()
