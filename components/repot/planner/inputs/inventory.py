"""What a reader of PICTURES returns: one record per picture, and why other files are left out.

The rest of the planner sees only this, whatever PICTURES is.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, overload

from repot.manifest import Rejection, Split
from repot.planner.file_table import CodedColumn, FileTable, FoundFile, take_sparse
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
        columns: See `repot.work_list.SourcePicture`.
    """

    file: FoundFile
    label: str
    split: Split | Literal[""] = ""
    group: str = ""
    boxes: tuple[Box, ...] = ()
    crop: Box | None = None
    columns: tuple[tuple[str, str], ...] = ()


class PictureTable(Sequence[CandidatePicture]):
    """Pictures as columns, see `repot.planner.file_table`.

    Attributes:
        files: The file of each picture.
        labels, splits: What each picture has, see `CandidatePicture`.
        groups, boxes, crops, columns: What a few pictures have, by their numbers.
    """

    def __init__(self, pictures: Iterable[CandidatePicture] = ()) -> None:
        self.files = FileTable()
        self.labels = CodedColumn[str]()
        self.splits = CodedColumn[Split | Literal[""]]()
        self.groups: dict[int, str] = {}
        self.boxes: dict[int, tuple[Box, ...]] = {}
        self.crops: dict[int, Box] = {}
        self.columns: dict[int, tuple[tuple[str, str], ...]] = {}
        self.extend(pictures)

    def __len__(self) -> int:
        return len(self.labels)

    @overload
    def __getitem__(self, number: int) -> CandidatePicture: ...
    @overload
    def __getitem__(self, number: slice) -> list[CandidatePicture]: ...
    def __getitem__(self, number: int | slice) -> CandidatePicture | list[CandidatePicture]:
        """Return a picture, or a list of pictures."""
        index = range(len(self))[number]
        return self._picture(index) if isinstance(index, int) else [*map(self._picture, index)]

    def __iter__(self) -> Iterator[CandidatePicture]:
        return map(self._picture, range(len(self)))

    def extend(self, pictures: Iterable[CandidatePicture]) -> None:
        """Add pictures."""
        for picture in pictures:
            self.append(picture)

    def append(self, picture: CandidatePicture) -> None:
        """Add a picture."""
        number = len(self)
        self.files.append(picture.file)
        self.labels.append(picture.label)
        self.splits.append(picture.split)
        if picture.group:
            self.groups[number] = picture.group
        if picture.boxes:
            self.boxes[number] = picture.boxes
        if picture.crop:
            self.crops[number] = picture.crop
        if picture.columns:
            self.columns[number] = picture.columns

    def take(self, numbers: Sequence[int]) -> "PictureTable":
        """Return a table of the pictures with these numbers, in this order."""
        taken = PictureTable()
        taken.files = self.files.take(numbers)
        taken.labels, taken.splits = self.labels.take(numbers), self.splits.take(numbers)
        taken.groups = take_sparse(self.groups, numbers)
        taken.boxes = take_sparse(self.boxes, numbers)
        taken.crops = take_sparse(self.crops, numbers)
        taken.columns = take_sparse(self.columns, numbers)
        return taken

    def sorted(self) -> "PictureTable":
        """Return the pictures sorted by path and location."""
        order = self.files.order()
        return self if isinstance(order, range) else self.take(order)

    def _picture(self, number: int) -> CandidatePicture:
        return CandidatePicture(
            file=self.files[number],
            label=self.labels[number],
            split=self.splits[number],
            group=self.groups.get(number, ""),
            boxes=self.boxes.get(number, ()),
            crop=self.crops.get(number),
            columns=self.columns.get(number, ()),
        )


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
    candidates: PictureTable
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
        return set(self.candidates.labels)

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
