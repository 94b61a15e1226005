import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from repot.preprocessing import (
    LEGACY_RESIZERS,
    central_crop,
    central_window,
    decode_jpeg,
    decode_window,
    mirror,
    resize_legacy,
    to_unit_range,
    view_picture,
)
from repot.records import decode_example, read_records

GOLDEN = Path(__file__).parent.parent / "golden"
EVALUATED = np.load(GOLDEN / "preprocessing" / "eval_299.npz")


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


def test_central_window_of_a_file_has_the_pixels_of_2016(jpegs: dict[str, bytes]) -> None:
    """Also of files that are CMYK, grey, PNG or GIF inside."""
    for name in EVALUATED.files:
        window = decode_window(jpegs[name], central_window)
        pixels = to_unit_range(window)

        resized = resize_legacy(pixels, (299, 299)).numpy()
        np.testing.assert_array_equal((resized * 2 - 1).astype(np.float16), EVALUATED[name])


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "GIF"])
@pytest.mark.parametrize("window", [(0, 0, 61, 47), (7, 13, 30, 21), (60, 46, 1, 1)])
def test_window_has_the_pixels_of_the_whole_picture(
    window: tuple[int, int, int, int], file_format: str
) -> None:
    encoded = save(noise(61, 47), file_format)
    top, left, height, width = window

    pixels = decode_window(encoded, lambda shape: tf.constant(window)).numpy()

    whole = tf.io.decode_jpeg(encoded, channels=3).numpy()
    np.testing.assert_array_equal(pixels, whole[top : top + height, left : left + width])


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("window", [(0, 0, 61, 47), (7, 13, 30, 21), (33, 5, 28, 42)])
def test_fast_window_repeats_the_coarse_colours_of_the_whole_picture(
    window: tuple[int, int, int, int], subsampling: int
) -> None:
    encoded = save(noise(61, 47), "JPEG", subsampling=subsampling)
    top, left, height, width = window

    pixels = decode_window(encoded, lambda shape: tf.constant(window), min_side=32).numpy()

    whole = tf.io.decode_jpeg(encoded, channels=3, fancy_upscaling=False).numpy()
    np.testing.assert_array_equal(pixels, whole[top : top + height, left : left + width])


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        (127, 200, (127, 200)),
        (128, 127, (128, 127)),
        (128, 200, (64, 100)),
        (255, 255, (127, 127)),
        (256, 300, (64, 75)),
        (512, 600, (64, 75)),
        (1400, 520, (175, 65)),
    ],
)
def test_large_jpeg_is_decoded_at_a_fraction_that_still_covers_the_target(
    height: int, width: int, expected: tuple[int, int]
) -> None:
    smooth = Image.new("L", (width, height))
    smooth.putdata([(x * 255) // width for _ in range(height) for x in range(width)])
    encoded = save(smooth.convert("RGB"), "JPEG")

    def whole(shape: Any) -> Any:
        return tf.concat([[0, 0], shape[:2]], axis=0)

    pixels = decode_window(encoded, whole, min_side=64).numpy()

    assert pixels.shape == (*expected, 3)
    means = np.asarray(smooth.resize(pixels.shape[1::-1], Image.Resampling.BOX))
    np.testing.assert_allclose(pixels[..., 0], means, atol=6)


@pytest.mark.parametrize("size", [(31, 20), (299, 224), (1, 1), (7, 500)])
@pytest.mark.parametrize("method", LEGACY_RESIZERS)
def test_legacy_resizers_are_those_of_tensorflow_1(
    method: str, size: tuple[int, int], picture: Any
) -> None:
    functions = {
        "bilinear": tf.compat.v1.image.resize_bilinear,
        "nearest": tf.compat.v1.image.resize_nearest_neighbor,
        "bicubic": tf.compat.v1.image.resize_bicubic,
        "area": tf.compat.v1.image.resize_area,
    }

    expected = functions[method](picture[tf.newaxis], size)[0].numpy()
    np.testing.assert_array_equal(resize_legacy(picture, size, method).numpy(), expected)


def noise(height: int, width: int) -> Image.Image:
    rng = np.random.default_rng([height, width])
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def save(picture: Image.Image, file_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, file_format, **options)
    return buffer.getvalue()
