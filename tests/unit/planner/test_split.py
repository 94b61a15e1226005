"""Properties of the split, on seeded random pictures: copies, groups, numbers, order, growth."""

import random
from collections import Counter, defaultdict
from collections.abc import Sequence

import pytest

from repot.manifest import Split
from repot.planner.file_table import FoundFile
from repot.planner.inputs.inventory import CandidatePicture, PictureTable
from repot.planner.split import (
    find_groups,
    find_split_warnings,
    group_digests,
    split_pictures,
)

SEEDS = range(20)


def _picture(
    label: str, content: int, *, path: str = "", group: str = "", split: Split | str = ""
) -> CandidatePicture:
    path = path or f"{label}/{content}.jpg"
    file = FoundFile(
        uri=f"/{path}",
        path=path,
        size_bytes=1000 + content % 7,
        checksum=f"{content:08x}",
        version="1",
    )
    return CandidatePicture(file=file, label=label, group=group, split=split)  # type: ignore[arg-type]


def _split(
    pictures: Sequence[CandidatePicture], validation: float = 0.2, test: float = 0.0
) -> list[Split]:
    groups = [picture.group for picture in pictures]
    return split_pictures(
        PictureTable(pictures), groups, validation_fraction=validation, test_fraction=test
    )


def _random_pictures(
    seed: int, *, num_pictures: int = 120, num_contents: int = 0, num_groups: int = 0
) -> list[CandidatePicture]:
    draw = random.Random(seed)
    contents = num_contents or 2**32
    return [
        _picture(
            draw.choice("abc"),
            draw.randrange(contents),
            path=f"{draw.random()}.jpg",
            group=f"g{draw.randrange(num_groups)}" if num_groups and draw.random() < 0.8 else "",
        )
        for _ in range(num_pictures)
    ]


def _content(picture: CandidatePicture) -> tuple[int, str]:
    return picture.file.size_bytes, picture.file.checksum


def _num_by_label(
    pictures: Sequence[CandidatePicture], splits: Sequence[Split], split: Split
) -> Counter[str]:
    return Counter(p.label for p, s in zip(pictures, splits, strict=True) if s == split)


def test_split_of_known_contents_never_changes() -> None:
    # It decides which pictures a published model was validated on.
    pictures = [_picture("a", content) for content in range(20)]
    splits = _split(pictures, 0.2, 0.1)
    assert [i for i, split in enumerate(splits) if split == "validation"] == [2, 11, 13, 17]
    assert [i for i, split in enumerate(splits) if split == "test"] == [8, 9]


@pytest.mark.parametrize("test", [0.0, 0.1])
@pytest.mark.parametrize("fraction", [0.001, 0.05, 0.2, 0.5, 0.85])
def test_label_gives_the_rounded_fraction_but_at_least_one(fraction: float, test: float) -> None:
    pictures = [
        _picture(f"label {count}", 1000 * count + number)
        for count in range(1, 60)
        for number in range(count)
    ]
    splits = _split(pictures, fraction, test)
    for count in range(1, 60):
        label = f"label {count}"
        numbers = {
            split: _num_by_label(pictures, splits, split)[label]
            for split in ("train", "validation", "test")
        }
        validation = max(1, round(count * fraction)) if count > 1 else 0
        tested = max(1, round(count * test)) if test and count > 2 else 0
        # One picture is left for train, and for test if that is wanted.
        validation = min(validation, max(count - 1 - bool(tested), 0))
        tested = min(tested, count - 1 - validation) if tested else 0
        assert numbers == {
            "train": count - validation - tested,
            "validation": validation,
            "test": tested,
        }


def test_34_pictures_give_7_to_validation_at_20_percent() -> None:
    splits = _split([_picture("a", number) for number in range(34)])
    assert Counter(splits) == {"train": 27, "validation": 7}


def test_pictures_with_the_lowest_hash_are_for_validation_and_the_highest_for_test() -> None:
    pictures = [_picture("a", number) for number in range(50)]
    few, more = _split(pictures, 0.1, 0.1), _split(pictures, 0.3, 0.2)
    both = list(zip(few, more, strict=True))
    assert ("validation", "train") not in both
    assert ("test", "train") not in both
    # Asking for a test split does not change validation.
    assert [s == "validation" for s in few] == [s == "validation" for s in _split(pictures, 0.1)]


@pytest.mark.parametrize("seed", SEEDS)
def test_copies_and_groups_are_never_divided(seed: int) -> None:
    pictures = _random_pictures(seed, num_contents=90, num_groups=25)
    splits = _split(pictures, 0.2, 0.15)
    by_content, by_group = defaultdict(set), defaultdict(set)
    for picture, split in zip(pictures, splits, strict=True):
        by_content[_content(picture)].add(split)
        by_group[picture.group].add(split)
    del by_group[""]
    assert all(len(found) == 1 for found in by_content.values())
    assert all(len(found) == 1 for found in by_group.values())


@pytest.mark.parametrize("seed", SEEDS)
def test_every_label_is_trained_on(seed: int) -> None:
    pictures = _random_pictures(seed, num_pictures=20, num_contents=12, num_groups=6)
    splits = _split(pictures, 0.6, 0.3)
    assert set(_num_by_label(pictures, splits, "train")) == {p.label for p in pictures}


@pytest.mark.parametrize("seed", SEEDS)
def test_order_and_names_do_not_matter(seed: int) -> None:
    pictures = _random_pictures(seed, num_contents=90, num_groups=25)
    renamed = [
        _picture(p.label, int(p.file.checksum, 16), path=f"moved/{number}.png", group=p.group)
        for number, p in enumerate(pictures)
    ]
    order = random.Random(seed).sample(range(len(pictures)), len(pictures))
    splits = _split(pictures, 0.2, 0.1)
    assert _split(renamed, 0.2, 0.1) == splits
    assert _split([pictures[i] for i in order], 0.2, 0.1) == [splits[i] for i in order]


@pytest.mark.parametrize("test", [0.0, 0.1])
@pytest.mark.parametrize("seed", SEEDS)
def test_an_added_picture_moves_at_most_one_other_across_each_border(
    seed: int, test: float
) -> None:
    pictures = _random_pictures(seed)
    before = _split(pictures[:10], 0.2, test)
    for count in range(11, len(pictures)):
        after = _split(pictures[:count], 0.2, test)
        moves = Counter(
            frozenset((old, new)) for old, new in zip(before, after, strict=False) if old != new
        )
        assert all(number <= 1 for number in moves.values())
        assert frozenset(("validation", "test")) not in moves
        moved = [
            p.label for p, old, new in zip(pictures, before, after, strict=False) if old != new
        ]
        assert set(moved) <= {pictures[count - 1].label}
        before = after


@pytest.mark.parametrize("seed", SEEDS)
def test_when_a_dataset_doubles_few_pictures_cross(seed: int) -> None:
    pictures = _random_pictures(seed, num_pictures=1000)
    before, after = _split(pictures[:500]), _split(pictures)
    num_moved = sum(old != new for old, new in zip(before, after, strict=False))
    # The border is a quantile of the hashes; it moves by about its standard deviation.
    assert num_moved < 60


@pytest.mark.parametrize("seed", SEEDS)
def test_numbers_with_groups_are_off_by_less_than_a_group(seed: int) -> None:
    draw = random.Random(seed)
    sizes = [draw.randint(1, 8) for _ in range(60)]
    pictures = [
        _picture("ab"[number % 2], 1000 * number + i, group=f"g{number}")
        for number, size in enumerate(sizes)
        for i in range(size)
    ]
    splits = _split(pictures, 0.2, 0.1)
    total = Counter(picture.label for picture in pictures)
    for split, fraction in {"validation": 0.2, "test": 0.1}.items():
        numbers = _num_by_label(pictures, splits, split)  # type: ignore[arg-type]
        for label in "ab":
            assert abs(numbers[label] - round(total[label] * fraction)) <= 4


def test_group_larger_than_the_fraction_is_left_for_training() -> None:
    big = [_picture("a", number, group="big") for number in range(80)]
    small = [_picture("a", 100 + number, group=f"small {number}") for number in range(20)]
    pictures = [*big, *small]
    splits = _split(pictures, 0.1)
    assert Counter(splits) == {"train": 90, "validation": 10}
    assert set(splits[:80]) == {"train"}


@pytest.mark.parametrize("num_small", [3, 90])
def test_label_of_two_groups_validates_on_the_smaller(num_small: int) -> None:
    pictures = [_picture("a", number, group="g1") for number in range(num_small)]
    pictures += [_picture("a", 100 + number, group="g2") for number in range(20)]
    expected = {"train": max(20, num_small), "validation": min(20, num_small)}
    assert Counter(_split(pictures, 0.2)) == expected


def test_groups_of_all_labels_are_stratified() -> None:
    # 100 patients with one to six pictures of three labels each; label c is rare.
    draw = random.Random(0)
    pictures = [
        _picture(draw.choices("abc", (70, 25, 5))[0], 100 * patient + i, group=f"patient {patient}")
        for patient in range(100)
        for i in range(draw.randint(1, 6))
    ]
    splits = _split(pictures)
    total = Counter(picture.label for picture in pictures)
    numbers = _num_by_label(pictures, splits, "validation")
    for label in "abc":
        assert abs(numbers[label] - 0.2 * total[label]) <= 3


def test_copy_under_two_labels_stays_on_one_side() -> None:
    for seed in SEEDS:
        draw = random.Random(seed)
        contents = [draw.randrange(2**32) for _ in range(30)]
        pictures = [_picture("a", content) for content in contents]
        pictures += [_picture("b", content, path=f"b/{content}") for content in contents[:10]]
        pictures += [_picture("b", draw.randrange(2**32)) for _ in range(40)]
        splits = _split(pictures)
        assert splits[:10] == splits[30:40]


def test_empty_files_are_not_counted() -> None:
    pictures = [_picture("a", n) for n in range(10)]
    empty = [_picture(label, 0, path=f"{label}/{n}") for label in "ab" for n in range(40)]
    for picture in empty:
        object.__setattr__(picture.file, "size_bytes", 0)
    splits = _split([*pictures, *empty])
    assert Counter(splits[:10]) == {"train": 8, "validation": 2}
    assert set(splits[10:]) == {"train"}


def test_copies_join_groups() -> None:
    # g1 and g2 have a copy in common, and a third copy is in no group.
    linked = [
        _picture("a", 1, path="1", group="g1"),
        _picture("a", 2, path="2", group="g1"),
        _picture("a", 1, path="3", group="g2"),
        _picture("a", 3, path="4", group="g2"),
        _picture("b", 1, path="5"),
    ]
    for seed in SEEDS:
        others = _random_pictures(seed, num_pictures=30)
        splits = _split([*others, *linked], 0.4)
        assert len(set(splits[-5:])) == 1


def test_digest_of_a_group_follows_from_its_members() -> None:
    pictures = [
        _picture("a", 1, path="1", group="g1"),
        _picture("a", 2, path="2", group="g1"),
        _picture("b", 1, path="3", group="g2"),  # a copy joins the groups
        _picture("b", 3, path="4", group="g2"),
        _picture("b", 4, path="5", group="alone"),
        _picture("b", 4, path="6", group="alone"),  # only copies of one picture
        _picture("b", 5, path="7"),
        _picture("a", 6, path="8", group="g3"),
        _picture("a", 7, path="9", group="g3"),
    ]

    def digests(pictures: list[CandidatePicture], prefix: str = "") -> list[str]:
        groups = [picture.group and prefix + picture.group for picture in pictures]
        return group_digests(PictureTable(pictures), groups)

    found = digests(pictures)

    assert len({*found[:4]}) == len({*found[7:]}) == 1
    assert len({found[0], found[7], ""}) == 3
    assert found[4:7] == ["", "", ""]
    assert all(len(bytes.fromhex(digest)) in (0, 16) for digest in found)
    assert digests(pictures[::-1], prefix="other name ") == found[::-1]
    assert digests(pictures[:8])[7] == ""
    assert digests(pictures[1:])[6] == found[7]


def test_stated_splits_are_kept_and_the_rest_is_divided() -> None:
    pictures = [_picture("a", n, split="validation") for n in range(10)]
    pictures += [_picture("a", 100 + n, split="train") for n in range(10)]
    pictures += [_picture("a", 200 + n) for n in range(50)]
    splits = _split(pictures, 0.2)
    assert splits[:20] == ["validation"] * 10 + ["train"] * 10
    assert Counter(splits[20:]) == {"train": 40, "validation": 10}


@pytest.mark.parametrize(
    ("stated", "fraction", "expected"),
    [
        ({"train": 100, "test": 20}, 0.0, {"train": 80, "validation": 20, "test": 20}),
        ({"train": 100, "validation": 20}, 0.1, {"train": 90, "validation": 20, "test": 10}),
        ({"train": 100, "validation": 20}, 0.0, {"train": 100, "validation": 20}),
        (
            {"train": 100, "validation": 20, "test": 5},
            0.1,
            {"train": 100, "validation": 20, "test": 5},
        ),
    ],
)
def test_split_that_is_not_stated_is_taken_from_training(
    stated: dict[Split, int], fraction: float, expected: dict[str, int]
) -> None:
    pictures = [
        _picture("a", 1000 * len(split) + n, split=split)
        for split, count in stated.items()
        for n in range(count)
    ]
    assert Counter(_split(pictures, 0.2, fraction)) == expected


def test_copy_of_a_picture_with_a_stated_split_joins_it() -> None:
    pictures = [
        _picture("a", 1, path="1", split="validation"),
        _picture("a", 2, path="2", split="train"),
        _picture("a", 3, path="3", split="test"),
        *(_picture("a", content, path=f"copy {content}") for content in (1, 2, 3)),
    ]
    assert _split(pictures)[3:] == ["validation", "train", "test"]


def test_copies_that_the_input_divides_stay_as_stated_and_are_not_moved_to_test() -> None:
    pictures = [_picture("a", n, path=f"train {n}", split="train") for n in range(10)]
    pictures += [_picture("a", n, path=f"validation {n}", split="validation") for n in range(5)]
    splits = _split(pictures, 0.2, 0.4)
    assert splits[:5] == ["train"] * 5
    assert splits[10:] == ["validation"] * 5
    assert Counter(splits[5:10]) == {"test": 2, "train": 3}


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("", ["", "", ""]),
        (r"patient\d+", ["patient7", "patient7", ""]),
        (r"(patient\d+)_(\d+)", ["patient7", "patient7", ""]),
        (r"^([^/]+)/", ["a", "b", "b"]),
        (r"x|(y)", ["", "", ""]),
    ],
)
def test_group_pattern_is_searched_in_the_path(pattern: str, expected: list[str]) -> None:
    pictures = [
        _picture("a", 1, path="a/patient7_1.jpg"),
        _picture("b", 2, path="b/patient7_2.jpg"),
        _picture("b", 3, path="b/x.jpg"),
    ]
    assert find_groups(PictureTable(pictures), pattern) == expected


def test_group_of_the_input_is_kept() -> None:
    pictures = [_picture("a", 1, path="p1.jpg", group="site"), _picture("a", 2, path="p2.jpg")]
    assert find_groups(PictureTable(pictures), r"p\d") == ["site", "p2"]


def _warnings(pictures: Sequence[CandidatePicture], pattern: str = "") -> list[str]:
    table = PictureTable(pictures)
    groups = find_groups(table, pattern)
    splits = split_pictures(table, groups, validation_fraction=0.2)
    return find_split_warnings(table, groups, splits, group_pattern=pattern)


def test_split_without_oddities_gives_no_warning() -> None:
    assert _warnings([_picture("a", n) for n in range(10)]) == []


def test_pattern_without_a_match_gives_a_warning() -> None:
    (warning,) = _warnings([_picture("a", n) for n in range(10)], r"patient\d")
    assert "'patient\\\\d' matches no picture; a path is, for example, 'a/0.jpg'" in warning


def test_group_that_the_input_divides_gives_a_warning() -> None:
    pictures = [
        _picture("a", n, split=split, group="p1" if n % 4 == 0 else f"q{n}")
        for n, split in enumerate(["train", "train", "train", "train", "validation", "train"])
    ]
    (warning,) = _warnings(pictures)
    assert "divides 1 group among splits: 'p1'." in warning


def test_label_without_a_validation_picture_gives_a_warning() -> None:
    pictures = [_picture("a", n) for n in range(10)]
    pictures += [_picture("b", 100, path=f"b/{n}") for n in range(2)]
    (warning,) = _warnings(pictures)
    assert warning.startswith("No picture of 'b' is in validation, so it is not scored.")
