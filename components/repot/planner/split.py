"""Assign each picture to train, validation or test, so that what is alike stays together.

Pictures with the same key always get the same split. The key is the picture's group, if it has one,
otherwise its content: the size and the CRC32C of its bytes, or what stands for it, see
`repot.planner.checksums`. A copy that is in a group joins all
pictures of that group and all its copies elsewhere.

Each label gives round(n x fraction) of its n pictures to validation, those with the lowest hash of
the key, and round(n x fraction) to test, those with the highest. Names, paths and the order of the
listing do not matter. When a picture is added, at most one other picture of its label crosses the
border between validation and train, and at most one that between train and test.

Where a key stands for several pictures, the numbers are approximate, because no key is divided: in
the order of the hash, a key is taken if that brings the numbers of all its labels closer to what
they should be, and left out otherwise. Rare labels choose first. Source: "On the Stratification of
Multi-Label Data", Sechidis, Tsoumakas and Vlahavas, 2011, with an order by hash instead of chance.

Whatever the fractions, every label has a key in train, a label with two keys has one in validation,
and a label with three has one in test, if test is wanted and no key is shared with other labels.

A split that the input states is kept, and n counts the pictures without one. If the input states no
picture for validation (or for test), n also counts those that it states for training, which are
then taken like the others.
"""

import hashlib
import re
from array import array
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter

import numpy as np

from repot.errors import join_names
from repot.example_digests import DIGEST_BYTES
from repot.manifest import Split
from repot.planner.inputs.inventory import PictureTable

_Key = int
"""Rank of a key among all keys, in the order of their hashes."""

_Bundle = Mapping[str, int]
"""Number of pictures of a key by label."""

_HashedKey = tuple[int, bytes]
"""Rank of the kind (groups before contents) and a SHA-256."""

_GROUP_RANK, _CONTENT_RANK = 0, 1

_MAX_EXAMPLES = 3


def find_groups(pictures: PictureTable, group_pattern: str) -> list[str]:
    """Return the group of each picture, "" for none.

    Args:
        pictures: The pictures; a group that the input states is kept.
        group_pattern: Regular expression that is searched in the path relative to PICTURES. The
            group is what the first capture group matched, or the whole match without one. "" finds
            no groups.
    """
    stated = (pictures.groups.get(number, "") for number in range(len(pictures)))
    if not group_pattern:
        return list(stated)
    pattern = re.compile(group_pattern)
    return [
        group or _find_group(pattern, path)
        for group, path in zip(stated, pictures.files.paths, strict=True)
    ]


def split_pictures(
    pictures: PictureTable,
    groups: Sequence[str],
    *,
    validation_fraction: float,
    test_fraction: float = 0.0,
) -> list[Split]:
    """Return the split of each picture.

    Args:
        pictures: The pictures, with checksums, in any order.
        groups: The group of each picture, see `find_groups`.
        validation_fraction: Fraction of the pictures of each label for validation, in (0, 1).
        test_fraction: Fraction of the pictures of each label for test, in [0, 1); 0 takes none. The
            sum of both is below 1.
    """
    keys, num_keys = _find_keys(pictures, groups)
    stated: dict[_Key, set[str]] = defaultdict(set)
    stated_splits = set(pictures.splits)
    if stated_splits != {""}:
        for key, split in zip(keys, pictures.splits, strict=True):
            if split:
                stated[key].add(split)
    draw = _Draw(_bundles(pictures, keys, num_keys), stated)
    fractions: dict[Split, float] = {"validation": validation_fraction, "test": test_fraction}
    for split, fraction in fractions.items():
        if fraction:
            num_later = 1 if split == "validation" and test_fraction else 0
            draw.take(
                split,
                fraction,
                with_train=split not in stated_splits,
                num_reserved=1 + num_later,
            )
    return [
        draw.taken.get(key) or own or _most_protected(stated.get(key, ()))
        for key, own in zip(keys, pictures.splits, strict=True)
    ]


def group_digests(pictures: PictureTable, groups: Sequence[str]) -> list[str]:
    """Return what names the group of each picture, 32 hex digits; "" where it is the only member.

    It follows from the content of all members, not from names: the same pictures in the same groups
    are the same dataset. Groups that have a copy in common are one, and the parts of a picture are
    members each.

    Args:
        pictures: The pictures, with checksums, in any order.
        groups: The group of each picture, see `find_groups`.
    """
    if not any(groups):
        return [""] * len(pictures)
    keys = _find_hashed_keys(pictures, groups)
    members: dict[_HashedKey, set[str]] = defaultdict(set)
    for number, (key, content) in enumerate(zip(keys, _contents(pictures), strict=True)):
        if key[0] == _GROUP_RANK:
            members[key].add(f"{content} {pictures.crops.get(number)}")
    digests = {
        key: hashlib.sha256("\n".join(sorted(found)).encode()).hexdigest()[: 2 * DIGEST_BYTES]
        for key, found in members.items()
        if len(found) > 1
    }
    return [digests.get(key, "") for key in keys]


def find_split_warnings(
    pictures: PictureTable,
    groups: Sequence[str],
    splits: Sequence[Split],
    *,
    group_pattern: str,
) -> list[str]:
    """Return a warning for each oddity of a split that is probably a mistake.

    Args:
        pictures, groups, splits: As `split_pictures` takes and returns them.
        group_pattern: See `find_groups`.
    """
    warnings = []
    if group_pattern and not any(groups):
        warnings.append(
            f"The group pattern {group_pattern!r} matches no picture; a path is, for example, "
            f"{pictures.files.paths[0]!r}. Correct --group-pattern (setting group_pattern)."
        )
    splits_by_group: dict[str, set[str]] = defaultdict(set)
    for group, split in zip(groups, splits, strict=True):
        splits_by_group[group].add(split)
    divided = sorted(group for group, found in splits_by_group.items() if group and len(found) > 1)
    if divided:
        warnings.append(
            f"The input divides {len(divided)} {'group' if len(divided) == 1 else 'groups'} among "
            f"splits: {_join_examples(divided)}. Scores on pictures of a group that was trained on "
            "are too high. Move each group to one split."
        )
    found = set(zip(pictures.labels, splits, strict=True))
    validated = {label for label, split in found if split == "validation"}
    unvalidated = sorted({label for label, _ in found} - validated)
    if unvalidated and validated:
        warnings.append(
            f"No picture of {_join_examples(unvalidated)} is in validation, so "
            f"{'it is' if len(unvalidated) == 1 else 'they are'} not scored. Add pictures: to be "
            "split, a label needs two that are neither copies of each other nor of one group."
        )
    return warnings


class _Draw:
    """Takes keys for validation and test, and counts what is left for training.

    Attributes:
        taken: The split of every key that was taken.
    """

    def __init__(
        self, bundles: Sequence[_Bundle | None], stated: Mapping[_Key, Collection[str]]
    ) -> None:
        self.taken: dict[_Key, Split] = {}
        self._bundles = bundles
        self._stated = stated
        # The keys of each label, in the order of their hashes.
        self._by_label: dict[str, list[_Key]] = defaultdict(list)
        # Number of keys per label that would be trained on.
        self._num_left: Counter[str] = Counter()
        for key, bundle in enumerate(bundles):
            for label in bundle or ():
                self._by_label[label].append(key)
                self._num_left[label] += "train" in stated.get(key, ("train",))

    def take(self, split: Split, fraction: float, *, with_train: bool, num_reserved: int) -> None:
        """Take the keys of one split.

        Args:
            split: The split.
            fraction: Fraction of the pictures of each label, of those without a split.
            with_train: Whether pictures that the input states for training count too, and may be
                taken.
            num_reserved: Number of keys of each label to leave, for train and for the next split.
        """
        step = -1 if split == "test" else 1
        by_label = {
            label: [
                key
                for key in keys[::step]
                if key not in self._stated or (with_train and self._stated[key] == {"train"})
            ]
            for label, keys in self._by_label.items()
        }
        sizes = {
            label: sum(self._bundle(key)[label] for key in keys) for label, keys in by_label.items()
        }
        quota = _Quota(
            wanted={label: max(1, round(size * fraction)) for label, size in sizes.items()}
        )
        for label in sorted(by_label, key=lambda label: (len(by_label[label]), label)):
            self._take_label(split, label, by_label[label], quota, num_reserved)

    def _bundle(self, key: _Key) -> _Bundle:
        return self._bundles[key] or {}

    def _take_label(
        self, split: Split, label: str, keys: Sequence[_Key], quota: "_Quota", num_reserved: int
    ) -> None:
        for key in keys:
            if quota.given[label] >= quota.wanted[label]:
                return
            bundle = self._bundle(key)
            if self._is_free(key, num_reserved) and quota.added_error(bundle) < 0:
                self._take_key(split, key, quota)
        if quota.given[label]:
            return
        # Every key is too large: the one that does the least harm. Train goes before the reserve.
        free = [key for key in keys if self._is_free(key, min(num_reserved, 1))]
        if free:
            best = min(free, key=lambda key: quota.added_error(self._bundle(key)))
            self._take_key(split, best, quota)

    def _is_free(self, key: _Key, num_reserved: int) -> bool:
        """Return whether a key can be taken so that enough keys of all its labels are left."""
        return key not in self.taken and all(
            self._num_left[label] > num_reserved for label in self._bundle(key)
        )

    def _take_key(self, split: Split, key: _Key, quota: "_Quota") -> None:
        self.taken[key] = split
        for label, count in self._bundle(key).items():
            quota.given[label] += count
            self._num_left[label] -= 1


@dataclass(kw_only=True, slots=True)
class _Quota:
    """How many pictures of each label a split should get, and how many it was given."""

    wanted: dict[str, int]
    given: Counter[str] = field(default_factory=Counter)

    def added_error(self, bundle: Mapping[str, int]) -> int:
        """Return by how much a bundle would bring all numbers away from what they should be."""
        return sum(
            abs(self.given[label] + count - self.wanted[label])
            - abs(self.given[label] - self.wanted[label])
            for label, count in bundle.items()
        )


def _most_protected(splits: Collection[str]) -> Split:
    """Return the split of a picture without one whose copies or group have these."""
    return next((split for split in _MOST_PROTECTED_FIRST if split in splits), "train")


_MOST_PROTECTED_FIRST: tuple[Split, ...] = ("test", "validation", "train")


def _find_keys(pictures: PictureTable, groups: Sequence[str]) -> tuple[Sequence[_Key], int]:
    """Return the key of each picture, and the number of keys."""
    if any(groups):
        hashed = _find_hashed_keys(pictures, groups)
        ranks = {key: rank for rank, key in enumerate(sorted(set(hashed), key=itemgetter(1, 0)))}
        return [ranks[key] for key in hashed], len(ranks)
    # Of a million pictures, an array of digests has 32 MB, and a list of tuples 130 MB.
    digests = np.fromiter(_content_digests(pictures), "S32", len(pictures))
    distinct, keys = np.unique(digests, return_inverse=True)
    return array("q", keys), len(distinct)


def _find_hashed_keys(pictures: PictureTable, groups: Sequence[str]) -> list[_HashedKey]:
    """Return the key of each picture.

    Groups that have a copy of one picture in common become one group. Its key is the smallest, so
    that it does not depend on the order of the pictures.
    """
    contents = [(_CONTENT_RANK, digest) for digest in _content_digests(pictures)]
    # A forest of keys; a root is the smallest key of its tree.
    parents: dict[_HashedKey, _HashedKey] = {}

    def root(key: _HashedKey) -> _HashedKey:
        while (parent := parents.get(key, key)) != key:
            parents[key] = parents.get(parent, parent)
            key = parent
        return key

    for content, group in zip(contents, groups, strict=True):
        if group:
            low, high = sorted((root(content), root((_GROUP_RANK, _hash(group)))))
            parents[high] = low
    return [root(content) for content in contents]


def _content_digests(pictures: PictureTable) -> Iterator[bytes]:
    return map(_hash, _contents(pictures))


def _contents(pictures: PictureTable) -> Iterator[str]:
    files = pictures.files
    return map("{} {}".format, files.sizes, files.checksums)


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode(errors="surrogateescape")).digest()


def _bundles(pictures: PictureTable, keys: Iterable[_Key], num_keys: int) -> list[_Bundle | None]:
    """Return the number of pictures per label of each key; None for empty files, no pictures.

    All empty files are copies of each other, and would tie the labels together.
    """
    bundles: list[_Bundle | None] = [None] * num_keys
    # Most keys are of one picture: they share one dictionary per label.
    singles: dict[str, _Bundle] = {}
    for key, label, size_bytes in zip(keys, pictures.labels, pictures.files.sizes, strict=True):
        if not size_bytes:
            continue
        bundle = bundles[key]
        if bundle is None:
            bundles[key] = singles.setdefault(label, {label: 1})
        else:
            bundles[key] = {**bundle, label: bundle.get(label, 0) + 1}
    return bundles


def _find_group(pattern: re.Pattern[str], path: str) -> str:
    match = pattern.search(path)
    if not match:
        return ""
    return (match[1] or "") if pattern.groups else match[0]


def _join_examples(names: Sequence[str]) -> str:
    return join_names(map(repr, names), _MAX_EXAMPLES)
