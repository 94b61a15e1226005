from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from repot.preprocessing import (
    central_crop,
    decode_jpeg,
    distort_picture,
    mirror,
    view_picture,
)
from repot.records import decode_example, read_records

GOLDEN = Path(__file__).parent.parent / "golden"
EVALUATED = np.load(GOLDEN / "preprocessing" / "eval_299.npz")
SEEDS = range(40)


@pytest.fixture(scope="module")
def jpegs() -> dict[str, bytes]:
    """Return the JPEGs in the shards of the 2016 program by label and file name."""
    found = {}
    for shard in sorted((GOLDEN / "build_image_data" / "shards").iterdir()):
        for record in read_records(shard):
            example = decode_example(record)
            (text,), (filename,) = example["image/class/text"], example["image/filename"]
            found[f"{text.decode()}/{filename.decode()}"] = example["image/encoded"][0]  # type: ignore[union-attr]
    return found  # type: ignore[return-value]


@pytest.fixture(scope="module")
def picture(jpegs: dict[str, bytes]) -> Any:
    return decode_jpeg(jpegs["daisy/img_02.JPEG"])


@pytest.mark.parametrize("name", EVALUATED.files)
def test_central_crop_equals_the_pixels_of_2016(name: str, jpegs: dict[str, bytes]) -> None:
    pixels = central_crop(decode_jpeg(jpegs[name]), 299).numpy()

    np.testing.assert_array_equal((pixels * 2 - 1).astype(np.float16), EVALUATED[name])


@pytest.mark.parametrize(
    ("length", "kept"),
    [(60, 54), (64, 56), (70, 62), (77, 69), (90, 80), (101, 89), (299, 263), (500, 438)],
)
def test_central_crop_keeps_as_many_rows_as_2016(length: int, kept: int) -> None:
    ramp = tf.tile(tf.range(length, dtype=tf.float32)[:, tf.newaxis, tf.newaxis], [1, length, 3])

    rows = central_crop(ramp, kept).numpy()[:, 0, 0]

    np.testing.assert_array_equal(rows, np.arange(kept) + (length - kept) // 2)


def test_central_view_equals_the_central_crop(picture: Any) -> None:
    np.testing.assert_array_equal(
        view_picture(picture, 96, "central").numpy(), central_crop(picture, 96).numpy()
    )


def test_whole_view_shows_all_four_corners() -> None:
    picture = np.full((40, 80, 3), 0.5, np.float32)
    corners = {(0, 0): 0.1, (0, -1): 0.2, (-1, 0): 0.3, (-1, -1): 0.4}
    for (row, column), value in corners.items():
        rows = slice(None, 10) if row == 0 else slice(-10, None)
        columns = slice(None, 20) if column == 0 else slice(-20, None)
        picture[rows, columns] = value

    whole = view_picture(tf.constant(picture), 16, "whole").numpy()

    assert whole.shape == (16, 16, 3)
    for (row, column), value in corners.items():
        np.testing.assert_allclose(whole[row, column], value, atol=1e-6)


@pytest.mark.parametrize(
    ("height", "width", "rows", "columns"),
    [
        (40, 40, (0, 16), (0, 16)),
        (20, 40, (4, 12), (0, 16)),
        (40, 20, (0, 16), (4, 12)),
        (30, 40, (2, 14), (0, 16)),
        (9, 16, (3, 12), (0, 16)),  # 7 rows of padding: 3 above, 4 below
        (1, 4000, (7, 8), (0, 16)),
        (3, 2, (0, 16), (2, 13)),
    ],
)
def test_padded_view_keeps_the_aspect_ratio(
    height: int, width: int, rows: tuple[int, int], columns: tuple[int, int]
) -> None:
    padded = view_picture(tf.ones((height, width, 3)), 16, "padded").numpy()

    expected = np.full((16, 16, 3), 0.5, np.float32)
    expected[slice(*rows), slice(*columns)] = 1
    np.testing.assert_array_equal(padded, expected)


def test_padded_view_of_a_square_equals_the_whole_view(picture: Any) -> None:
    square = picture[:48, :48]

    np.testing.assert_array_equal(
        view_picture(square, 32, "padded").numpy(), view_picture(square, 32, "whole").numpy()
    )


def test_unknown_view_is_an_error(picture: Any) -> None:
    with pytest.raises(ValueError, match="view='square'"):
        view_picture(picture, 32, "square")  # type: ignore[arg-type]


def test_views_work_in_a_graph_that_does_not_know_the_size(picture: Any) -> None:
    for view in ("central", "whole", "padded"):
        inside = tf.function(
            lambda pixels, view=view: view_picture(pixels, 24, view),
            input_signature=[tf.TensorSpec([None, None, 3], tf.float32)],
        )
        np.testing.assert_array_equal(
            inside(picture).numpy(), view_picture(picture, 24, view).numpy()
        )


def test_mirror_exchanges_left_and_right_of_one_picture_and_of_a_batch(picture: Any) -> None:
    np.testing.assert_array_equal(mirror(picture).numpy(), picture.numpy()[:, ::-1])
    np.testing.assert_array_equal(mirror(picture[None]).numpy(), picture.numpy()[None, :, ::-1])


def test_distort_picture_depends_only_on_its_seed(picture: Any) -> None:
    first, second, other = (
        distort_picture(picture, 64, seed).numpy() for seed in ([1, 2], [1, 2], [1, 3])
    )

    np.testing.assert_array_equal(first, second)
    assert np.abs(first - other).max() > 0.01


def test_distort_picture_keeps_range_and_shape_for_every_seed(picture: Any) -> None:
    for seed in SEEDS:
        distorted = distort_picture(picture, 48, [7, seed])

        assert distorted.shape == (48, 48, 3)
        assert 0 <= float(tf.reduce_min(distorted)) <= float(tf.reduce_max(distorted)) <= 1


def test_distort_picture_resizes_a_quarter_by_nearest_neighbour() -> None:
    black_and_white = tf.cast(
        tf.random.stateless_uniform((40, 40, 1), [1, 1]) < 0.5, tf.float32
    ) * tf.ones((1, 1, 3))

    # Colours change pixel by pixel, so two colours stay two unless resizing mixes neighbours.
    num_colours = [
        len(np.unique(pixels[:, :, 0])) for pixels in _distorted(0.3 + 0.3 * black_and_white)
    ]

    assert 0.1 < np.mean([number <= 2 for number in num_colours]) < 0.4


def test_distort_picture_flips_about_half_of_the_pictures() -> None:
    left_is_dark = tf.tile(tf.linspace(0.2, 0.6, 80)[tf.newaxis, :, tf.newaxis], [80, 1, 3])

    flipped = [
        bool(tf.reduce_mean(d[:, :8]) > tf.reduce_mean(d[:, -8:])) for d in _distorted(left_is_dark)
    ]

    assert 0.25 < np.mean(flipped) < 0.75


def test_distort_picture_accepts_a_picture_of_one_pixel() -> None:
    assert distort_picture(tf.fill((1, 1, 3), 0.5), 32, [0, 0]).shape == (32, 32, 3)


def test_distort_picture_gives_equal_results_in_a_parallel_pipeline(picture: Any) -> None:
    indices = tf.data.Dataset.range(8)
    distorted = indices.map(
        lambda i: distort_picture(picture, 32, tf.stack([tf.constant(5, tf.int64), i])), 4
    )

    for index, pixels in enumerate(distorted):
        np.testing.assert_array_equal(
            pixels.numpy(), distort_picture(picture, 32, tf.constant([5, index], tf.int64)).numpy()
        )


def _distorted(picture: Any) -> list[Any]:
    return [distort_picture(picture, 32, [11, seed]) for seed in SEEDS]
