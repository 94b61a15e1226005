import io
from pathlib import Path

import pytest
from PIL import Image

from repot.jpeg_structure import PlainRgb, find_plain_rgb, is_plain_rgb

GOLDEN = Path(__file__).parents[1] / "golden" / "build_image_data" / "data"


def _jpeg(mode: str = "RGB", *, progressive: bool = False, restart_rows: int = 0) -> bytes:
    image = Image.radial_gradient("L").resize((80, 60)).convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", progressive=progressive, restart_marker_rows=restart_rows)
    return buffer.getvalue()


PLAIN = _jpeg()


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(PLAIN, id="baseline"),
        pytest.param(_jpeg(progressive=True), id="progressive"),
        pytest.param(_jpeg(restart_rows=1), id="restart markers"),
        pytest.param(PLAIN + b"\0" * 9, id="padding after the end"),
        pytest.param(PLAIN + PLAIN, id="two pictures in one file"),
        pytest.param(PLAIN[:-2] + b"\xff\xff\xff\xd9", id="fill bytes before a marker"),
        pytest.param(b"\xff\xd8\xff\xff\xff" + PLAIN[3:], id="fill bytes before a segment"),
    ],
)
def test_complete_rgb_jpeg_is_plain(data: bytes) -> None:
    assert is_plain_rgb(data)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\x89PNG\r\n\x1a\n" + PLAIN, id="another format"),
        pytest.param(_jpeg("L"), id="one component"),
        pytest.param(_jpeg("CMYK"), id="four components"),
        pytest.param(
            PLAIN.replace(b"\xff\xc0\x00\x11\x08", b"\xff\xc0\x00\x11\x0c"), id="12-bit samples"
        ),
        pytest.param(PLAIN.replace(b"\xff\xc0", b"\xff\xc9"), id="arithmetic coding"),
        pytest.param(PLAIN.replace(b"\xff\xc0", b"\xff\xc3"), id="lossless"),
        pytest.param(PLAIN[:-1], id="half of the end marker"),
        pytest.param(PLAIN[:-2], id="no end marker"),
        pytest.param(
            PLAIN[:-2] + b"\xff\xe1\x00\x04ab\xff\xd9", id="a segment inside the only scan"
        ),
        pytest.param(PLAIN[:100], id="only a header"),
        pytest.param(b"\xff\xd8\xff\xd9", id="only start and end"),
        pytest.param(
            b"\xff\xd8\xff\xe0\x00\x01" + PLAIN[4:], id="segment shorter than its own length"
        ),
    ],
)
def test_other_data_is_not_plain(data: bytes) -> None:
    assert not is_plain_rgb(data)


@pytest.mark.parametrize(
    ("segment", "has_metadata"),
    [
        pytest.param(b"", False, id="JFIF only"),
        pytest.param(b"\xff\xfe\x00\x04ab", False, id="comment"),
        pytest.param(b"\xff\xe1\x00\x04ab", True, id="EXIF"),
        pytest.param(b"\xff\xe2\x00\x04ab", True, id="further pictures"),
        pytest.param(b"\xff\xe0\x00\x06JFIF", True, id="short JFIF"),
    ],
)
def test_size_and_metadata_are_found(segment: bytes, has_metadata: bool) -> None:
    data = PLAIN[:2] + segment + PLAIN[2:]
    assert find_plain_rgb(data) == PlainRgb(height=60, width=80, has_metadata=has_metadata)


def test_truncated_jpeg_is_not_plain() -> None:
    for data in (PLAIN, _jpeg(progressive=True)):
        assert not any(is_plain_rgb(data[:length]) for length in range(len(data)))


@pytest.mark.timeout(30)
def test_long_run_of_fill_bytes_takes_linear_time() -> None:
    assert is_plain_rgb(PLAIN[:-2] + b"\xff" * 1_000_000 + b"\xd9")
    assert not is_plain_rgb(PLAIN[:-2] + b"\xff" * 1_000_000 + b"\x00")


def test_golden_rgb_jpegs_are_plain() -> None:
    others = {
        path.name
        for path in GOLDEN.rglob("*.*")
        if path.is_file() and not is_plain_rgb(path.read_bytes())
    }
    assert others == {
        "cmyk.jpg",
        "gray.jpg",
        "gray.png",
        "palette.png",
        "picture.png",
        "with_alpha.png",
    }
