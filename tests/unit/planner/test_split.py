import random

import pytest

from repot.planner.split import path_fraction, split_pictures

PATHS = [f"roses/{number}.jpg" for number in range(3000)]


def test_path_fraction_depends_only_on_the_path() -> None:
    # This value must never change: it decides which pictures a published model was validated on.
    assert path_fraction("roses/0.jpg") == pytest.approx(0.7243575093485198)
    assert path_fraction("roses/\udce9.jpg") != path_fraction("roses/\udce8.jpg")


def test_validation_fraction_is_approximated() -> None:
    splits = split_pictures([(path, "roses") for path in PATHS], 0.2)
    # Five standard deviations of the binomial distribution.
    assert abs(list(splits.values()).count("validation") - 600) < 110


def test_split_does_not_depend_on_the_order_of_pictures() -> None:
    pictures = [(path, "roses") for path in PATHS[:100]]
    shuffled = random.Random(0).sample(pictures, len(pictures))
    assert split_pictures(pictures, 0.3) == split_pictures(shuffled, 0.3)


@pytest.mark.parametrize("fraction", [1e-9, 0.2, 0.5, 1 - 1e-9])
def test_label_with_two_pictures_has_one_in_each_split(fraction: float) -> None:
    for count in range(2, 30):
        for label in ("a", "b", "c"):
            splits = split_pictures(
                [(f"{label}/{number}", label) for number in range(count)], fraction
            )
            assert set(splits.values()) == {"train", "validation"}


def test_labels_are_split_independently() -> None:
    roses = [(path, "roses") for path in PATHS[:5]]
    daisies = [(f"daisy/{number}", "daisy") for number in range(5)]
    assert split_pictures(roses + daisies, 0.2) == split_pictures(roses, 0.2) | split_pictures(
        daisies, 0.2
    )


@pytest.mark.parametrize("fraction", [0.05, 0.2, 0.9])
def test_only_moved_pictures_change_when_pictures_are_added(fraction: float) -> None:
    for seed in range(200):
        draw = random.Random(seed)
        pictures = [(f"a/{draw.random()}", "a") for _ in range(12)]
        for count in range(2, len(pictures)):
            before = split_pictures(pictures[:count], fraction)
            after = split_pictures(pictures[: count + 1], fraction)
            for path in before:
                natural = "validation" if path_fraction(path) < fraction else "train"
                if before[path] == natural:
                    assert after[path] == natural
                else:
                    # A moved picture is the only one in its split.
                    assert list(before.values()).count(before[path]) == 1


def test_moved_picture_goes_back_when_another_picture_is_added() -> None:
    pictures = sorted(
        ((path, "a") for path in PATHS[:50]), key=lambda picture: path_fraction(picture[0])
    )
    lowest, rest = pictures[0], pictures[20:]
    assert split_pictures(rest, 0.001)[rest[0][0]] == "validation"
    splits = split_pictures([lowest, *rest], 0.001)
    assert splits[lowest[0]] == "validation"
    assert splits[rest[0][0]] == "train"
