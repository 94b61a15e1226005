"""What a reader of PICTURES returns: one record per picture, and why other files are left out.

The rest of the planner sees only this, whatever PICTURES is.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from repot.manifest import Rejection, Split
from repot.planner.listing import FoundFile
from repot.records import Box


@dataclass(frozen=True, kw_only=True, slots=True)
class CandidatePicture:
    """A file that has a label; its content has not been checked yet.

    Attributes:
        file: The file; `file.path` is the picture's name in messages, in rejections and in records.
        label: Name of its class.
        split: The split that the input states; "" if it states none.
        group: Pictures of one group, such as those of one patient, belong to the same split; "" if
            the picture belongs to no group.
        boxes: Its bounding boxes.
        crop: The example is only this part of the picture; None for the whole picture.
        columns: See `repot.dataset_plan.SourcePicture`.
    """

    file: FoundFile
    label: str
    split: Split | Literal[""] = ""
    group: str = ""
    boxes: tuple[Box, ...] = ()
    crop: Box | None = None
    columns: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Inventory:
    """Every file found, either as a candidate or with the reason for its rejection.

    Attributes:
        is_split: Whether the input states a split for all pictures, as train/ and validation/ do.
        candidates: The pictures with a label, sorted by path.
        rejected: All other files, sorted by path.
        empty_label_folders: Paths of label folders without a file that could be a picture, sorted.
        has_folders: Whether the labels are the names of folders in a storage.
        label_order: The labels in the order of their class ids, if the input states it.
        texts: What labels mean, for people, if they are synsets.
        has_boxes: Whether the input has bounding boxes, even if not of every picture.
    """

    is_split: bool
    candidates: tuple[CandidatePicture, ...]
    rejected: tuple[Rejection, ...]
    empty_label_folders: tuple[str, ...] = ()
    has_folders: bool = True
    label_order: tuple[str, ...] = ()
    texts: Mapping[str, str] = field(default_factory=dict)
    has_boxes: bool = False

    @property
    def num_found(self) -> int:
        """Return the number of files found."""
        return len(self.candidates) + len(self.rejected)

    @property
    def labels(self) -> set[str]:
        """Return the names of the labels that have candidates."""
        return {candidate.label for candidate in self.candidates}

    @property
    def all_folders(self) -> set[str]:
        """Return the names of the labels, those that are not listed included."""
        return self.labels | {
            item.label for item in self.rejected if item.reason == "label_not_listed"
        }

    @property
    def nested_paths(self) -> list[str]:
        """Return the paths of the files in subfolders of label folders, if those are rejected."""
        return [item.path for item in self.rejected if item.reason == "nested_folder"]

    @property
    def folders_without_files(self) -> dict[str, str]:
        """Return the label folders that contain only subfolders, each with one file in them."""
        nested = {
            rejection.label: rejection.path
            for rejection in reversed(self.rejected)
            if rejection.reason == "nested_folder"
        }
        return {label: nested[label] for label in sorted(set(nested) - self.labels)}
