import io
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageOps

import repot_pipelines
from repot.pictures import normalise_picture
from repot.shard_builder import candidates, duplicates
from repot.shard_builder.alignment import Parts, are_copies
from repot.shard_builder.appearances import APPEARANCE, measure
from repot.shard_builder.duplicates import MIN_CONTRAST, find_near_copies

SAMPLE = Path(repot_pipelines.__file__).parent / "sample" / "pictures"


def pictures() -> list[Image.Image]:
    """Return the drawings of the sample, each once, on white."""
    found = []
    for path in sorted(SAMPLE.rglob("*.*")):
        with Image.open(path) as image:
            found.append(image.convert("RGB"))
    return found


def encode(image: Image.Image, quality: int = 92) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def variants(image: Image.Image, draw: random.Random) -> Iterator[tuple[str, bytes]]:
    width, height = image.size
    scale = draw.choice([0.5, 0.7, 1.5])
    yield "resized", encode(image.resize((round(width * scale), round(height * scale))))
    yield "compressed", encode(image, 40)
    x, y = draw.random(), draw.random()
    left, top = round(width * 0.05 * x), round(height * 0.05 * y)
    yield (
        "cropped",
        encode(image.crop((left, top, left + round(width * 0.95), top + round(height * 0.95)))),
    )
    yield "mirrored", encode(ImageOps.mirror(image))
    border = round(min(width, height) * draw.choice([0.03, 0.06, 0.1]))
    yield "bordered", encode(ImageOps.expand(image, border, draw.choice(["black", "white", "red"])))


@pytest.fixture(scope="module")
def originals() -> list[Image.Image]:
    return pictures()


def test_planted_copies_are_found_and_nothing_else(originals: list[Image.Image]) -> None:
    draw = random.Random(3)
    files = [encode(image) for image in originals]
    planted = []
    for number, image in enumerate(originals[::3]):
        for kind, data in variants(image, draw):
            planted.append((number * 3, len(files), kind))
            files.append(data)
    rows = measure([normalise_picture(data) for data in files])

    found = {(int(one), int(other)) for one, other in find_near_copies(rows, np.arange(len(rows)))}

    origin = {copy: number for number, copy, _ in planted}
    missed = [kind for number, copy, kind in planted if (number, copy) not in found]
    assert len(planted) == 220
    assert len(missed) <= 0.05 * len(planted), missed
    wrong = [pair for pair in found if len({origin.get(i, i) for i in pair}) == 2]
    assert wrong == []


def test_what_is_measured_does_not_depend_on_the_other_pictures(
    originals: list[Image.Image],
) -> None:
    found = [normalise_picture(encode(image)) for image in originals[:70]]
    rows = measure(found)
    assert rows.tobytes() == b"".join(measure([each]).tobytes() for each in found)
    levels = [np.frombuffer(each.miniature, np.uint8)[::3] for each in found]
    assert rows["contrast"] == pytest.approx([each.std() for each in levels])


def texture(seed: int) -> Image.Image:
    """Return faint noise, such as a wall of concrete."""
    levels = np.random.default_rng(seed).normal(128, 60, (256, 256)).clip(0, 255).astype(np.uint8)
    return Image.fromarray(levels).filter(ImageFilter.GaussianBlur(2)).convert("RGB")


def test_copies_of_faint_textures_are_found_and_no_other_textures() -> None:
    draw = random.Random(5)
    textures = [texture(seed) for seed in range(30)]
    files = [encode(image) for image in textures]
    planted = []
    for number, image in enumerate(textures):
        for kind, data in variants(image, draw):
            planted.append((number, len(files), kind))
            files.append(data)
    rows = measure([normalise_picture(data) for data in files])

    found = {(int(one), int(other)) for one, other in find_near_copies(rows, np.arange(len(rows)))}

    origin = {copy: number for number, copy, _ in planted}
    missed = [kind for number, copy, kind in planted if (number, copy) not in found]
    assert (rows["contrast"][:30] < 6).all()
    assert len(missed) <= 0.05 * len(planted), missed
    assert [pair for pair in found if len({origin.get(i, i) for i in pair}) == 2] == []


def test_fine_texture_is_compared_although_nothing_of_it_is_left_at_low_resolution() -> None:
    rows = np.zeros(3, APPEARANCE)
    cells = np.arange(48) // 2
    # Cells of 2 x 2 pixels, so that all squares of 4 x 4 have the same mean.
    texture = 120 + 10 * ((cells[:, np.newaxis] + cells) % 2)
    noise = np.random.default_rng(0).integers(-2, 3, (3, 48, 48))
    rows["luminance"] = texture + noise
    rows["luminance"][2] = texture.T[::-1] + noise[2]
    rows["width"] = rows["height"] = 200
    whole = np.array([[0, 1, 0, 1]] * 2, np.float32)
    first = Parts(np.array([0, 0]), whole, np.zeros(2, np.bool_))
    second = Parts(np.array([1, 2]), whole, np.zeros(2, np.bool_))

    # The last one is darker where the first one is lighter.
    assert are_copies(rows, first, second).tolist() == [True, False]


def test_border_that_seems_wider_on_one_side_has_a_view_without_it() -> None:
    # The left half of the picture is as black as the border.
    image = Image.new("RGB", (200, 160), "black")
    image.paste((200, 180, 120), (100, 0, 200, 160))
    image.paste((90, 90, 90), (150, 50, 180, 120))
    rows = measure([normalise_picture(encode(ImageOps.expand(image, 20, "black")))])

    boxes = [view.boxes[0].tolist() for view in candidates.make_views(rows, np.arange(1))]

    assert rows["content"][0, 0] > 20
    expected = pytest.approx([20 / 240, 220 / 240, 20 / 200, 180 / 200], abs=0.01)
    assert [box for box in boxes if box == expected]


@pytest.mark.parametrize(("contrasts", "is_compared"), [((4.4, 3.2), True), ((3.6, 3.2), False)])
def test_copy_may_have_less_contrast_than_a_picture_needs(
    contrasts: tuple[float, float], is_compared: bool
) -> None:
    rows = np.repeat(measure([normalise_picture(encode(texture(0)))]), 2)
    luminance = rows["luminance"][0].astype(float)
    for row, contrast in enumerate(contrasts):
        levels = 128 + contrast * (luminance - luminance.mean()) / luminance.std()
        rows["luminance"][row] = np.round(levels)
        rows["contrast"][row] = contrast

    assert min(contrasts) < MIN_CONTRAST
    assert len(find_near_copies(rows, np.arange(2))) == is_compared


def test_nearly_symmetric_drawings_are_compared_in_both_orientations() -> None:
    image = Image.new("RGB", (300, 300), "white")
    drawing = ImageDraw.Draw(image)
    drawing.ellipse((20, 20, 280, 280), fill="grey", outline="black", width=12)
    drawing.line(((60, 60), (240, 240)), fill="white", width=36)
    drawing.line(((60, 240), (240, 60)), fill="white", width=24)
    rows = measure([normalise_picture(encode(image, quality)) for quality in (92, 40)])
    whole = np.array([[0, 1, 0, 1]] * 2, np.float32)
    # The hash may find either orientation nearer.
    first = Parts(np.array([0, 0]), whole, np.array([False, True]))
    second = Parts(np.array([1, 1]), whole, np.array([False, False]))

    assert are_copies(rows, first, second).tolist() == [True, True]


def test_faint_textures_in_a_strong_frame_are_no_copies() -> None:
    framed = [ImageOps.expand(texture(seed), 40, "black") for seed in range(4)]
    rows = measure([normalise_picture(encode(image)) for image in framed])

    assert find_near_copies(rows, np.arange(4)).shape == (0, 2)


@pytest.mark.parametrize(("levels", "is_copy"), [(0, True), (30, False)])
def test_drawing_with_another_detail_is_no_copy(
    originals: list[Image.Image], levels: int, is_copy: bool
) -> None:
    found = []
    for image in originals[:20]:
        other = image.copy()
        # An eighth of the width and of the height in the middle, darker or lighter.
        width, height = (length // 8 for length in image.size)
        left, top = (length // 2 for length in image.size)
        part = other.crop((left, top, left + width, top + height))
        by = -levels if np.asarray(part.convert("L")).mean() > 128 else levels
        changed = part.point([min(max(level + by, 0), 255) for level in range(256)] * 3)
        other.paste(changed, (left, top))
        rows = measure([normalise_picture(encode(each)) for each in (image, other)])
        found.append(len(find_near_copies(rows, np.arange(2))) == 1)

    assert found == [is_copy] * 20


def test_plain_pictures_are_no_copies_of_each_other() -> None:
    greys = [Image.new("RGB", (100, 80), (level, level, level)) for level in (90, 100, 110)]
    rows = measure([normalise_picture(encode(image)) for image in greys])

    assert (rows["contrast"] < MIN_CONTRAST).all()
    assert find_near_copies(rows, np.arange(3)).shape == (0, 2)


def test_other_colour_is_no_copy(originals: list[Image.Image]) -> None:
    image = originals[0]
    red, green, blue = image.split()
    other = Image.merge("RGB", (blue, green, red))
    rows = measure([normalise_picture(encode(each)) for each in (image, other)])
    difference = np.abs(rows["chroma"][0].astype(int) - rows["chroma"][1]).max()

    assert difference > 40, "the picture must have colours"
    assert len(find_near_copies(rows, np.arange(2))) == 0


@pytest.mark.parametrize("count", [0, 1])
def test_less_than_two_pictures_have_no_copies(originals: list[Image.Image], count: int) -> None:
    rows = measure([normalise_picture(encode(image)) for image in originals[:count]])

    assert find_near_copies(rows, np.arange(count)).shape == (0, 2)


def test_darker_picture_is_no_copy(originals: list[Image.Image]) -> None:
    image = originals[0]
    darker = image.point([level * 4 // 5 for level in range(256)] * 3)
    rows = measure([normalise_picture(encode(each)) for each in (image, darker)])

    assert len(find_near_copies(rows, np.arange(2))) == 0


def alike(image: Image.Image, number: int, seed: int) -> NDArray[np.void]:
    """Return the rows of a picture with faint noise, different each time."""
    rows = np.repeat(measure([normalise_picture(encode(image))]), number)
    noise = np.random.default_rng(seed).integers(0, 4, rows["luminance"].shape, np.uint8)
    rows["luminance"] = np.minimum(rows["luminance"], 250) + noise
    return rows


def test_large_groups_of_alike_pictures_are_found_in_few_comparisons(
    originals: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    size = 150
    mirrored = alike(ImageOps.mirror(originals[0]), 5, 2)
    rows = np.concatenate([alike(originals[0], size, 0), alike(originals[1], size, 1), mirrored])
    compared = []
    are_copies = duplicates._are_copies

    def count(rows: NDArray[np.void], pairs: NDArray[np.void], views: Any) -> NDArray[np.bool_]:
        compared.append(len(pairs))
        return are_copies(rows, pairs, views)

    monkeypatch.setattr(duplicates, "_are_copies", count)

    pairs = find_near_copies(rows, np.arange(len(rows)))

    groups = duplicates._groups(pairs, len(rows))
    assert groups.tolist() == [0] * size + [size] * size + [0] * 5
    assert sum(compared) < 10 * len(rows)
    assert len(pairs) < 40 * len(rows)


def test_memory_limit_for_candidates_changes_no_result(
    originals: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = random.Random(4)
    files = [data for image in originals[:30] for _, data in variants(image, draw)]
    rows = measure([normalise_picture(data) for data in files])
    expected = find_near_copies(rows, np.arange(len(rows)))
    monkeypatch.setattr(candidates, "_MAX_WAITING", 10)

    found = find_near_copies(rows, np.arange(len(rows)))

    assert len(expected) > 150
    np.testing.assert_array_equal(found, expected)


def test_group_is_its_first_picture_however_long_the_chain() -> None:
    chain = np.stack([np.arange(9, 0, -1), np.arange(8, -1, -1)], axis=1) * 2

    groups = duplicates._groups(chain, 20)

    assert groups.tolist() == [
        0 if number % 2 == 0 and number < 19 else number for number in range(20)
    ]
