"""What a data set's labels need before anything is built."""

from collections import Counter
from collections.abc import Collection, Sequence

from repot.errors import DataError, UsageError
from repot.shard_builder.folders import FolderContents
from repot.shard_builder.listing import PictureRoots
from repot.wording import some


def find_too_few_labels(labels: Collection[str]) -> list[str]:
    """Return what is wrong if there is nothing to tell apart."""
    if len(labels) >= 2:
        return []
    got = ", ".join(labels) or "none"
    return [f"There must be two labels or more; got {got}. Give the folder that holds a folder for each label."]


def find_label_problems(contents: FolderContents, labels: Collection[str]) -> list[str]:
    """Return what is wrong with how many pictures the labels have, a sentence each."""
    if contents.is_split:
        return _find_split_problems(contents, labels)
    num_pictures = Counter(labelled.label for labelled in contents.files)
    if lonely := sorted(label for label in labels if num_pictures[label] < 2):
        rule = "have two pictures or more, one to train on and one to validate"
        return [f"A label must {rule}; these have fewer: {some(lonely)}. Add pictures, or remove the folders."]
    return []


def find_overlap(roots: PictureRoots, dataset_uri: str) -> list[str]:
    """Return what is wrong if the data set were to lie among the pictures, where the next run would find it."""
    return [
        f"The data set must not lie inside the pictures' folder; got {dataset_uri} in {uri}. Choose another place."
        for uri in roots.folders.values()
        if f"{dataset_uri}/".startswith(f"{uri}/")
    ]


def raise_problems(*, usage: Sequence[str] = (), data: Sequence[str] = ()) -> None:
    """Raise all problems as one error, if there are any.

    Raises:
        UsageError: Some are about options.
        DataError: All are about the pictures.
    """
    if usage:
        raise UsageError([*usage, *data])
    if data:
        raise DataError("\n".join(data))


def _find_split_problems(contents: FolderContents, labels: Collection[str]) -> list[str]:
    problems = []
    trained = {labelled.label for labelled in contents.files if labelled.split == "train"}
    if untrained := sorted(set(labels) - trained):
        problems.append(
            f"Every label must have pictures in the training folder; these have none: {some(untrained)}. "
            "Add pictures there, or remove the folders from validation."
        )
    if not any(labelled.split == "validation" for labelled in contents.files):
        problems.append("The validation folder must hold pictures of a label; it holds none. Move some there.")
    return problems
