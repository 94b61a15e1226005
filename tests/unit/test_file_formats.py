import pytest

from repot.file_formats import name_format


@pytest.mark.parametrize(
    ("data", "name", "advice"),
    [
        (b"\0\0\0\x1cftypheic\0\0\0\0mif1heicmiaf", "a HEIC picture", "EXTRAS=heif`"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", "a HEIC picture", "EXTRAS=heif`"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1avifmiaf", "an AVIF picture", "JPEG"),
        (b"\0\0\0\x18ftypcrx \0\0\0\1crx isom", "a camera's raw file", "camera's software"),
        (b"\0\0\0\x20ftypisom\0\0\2\0isomiso2", "a video", "frames"),
        (b"\0\0\0\x14ftypqt  \0\0\0\0qt  ", "a video", "frames"),
        (b"\x1a\x45\xdf\xa3\1\0", "a video", "frames"),
        (b"RIFF\0\0\0\0AVI LIST", "a video", "frames"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "a JPEG XL picture", "JPEG or PNG"),
        (b"\xff\x0a\xfa\x7f", "a JPEG XL picture", "JPEG or PNG"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "a JPEG 2000 picture", "JPEG or PNG"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'>", "an SVG drawing", "Export"),
        (b"\xef\xbb\xbf<?xml version='1.0'?>\n<!-- x -->\n<svg>", "an SVG drawing", "Export"),
        (b"\n<!DOCTYPE HTML><html><svg>", "a web page, not the picture that it shows", "again"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer", "git lfs pull"),
        (b"PK\3\4", "a ZIP archive or an Office document", "Unpack"),
        (b"8BPS\0\1", "a Photoshop document", "Export"),
        (b"II*\0\x10\0\0\0CR\2\0", "a camera's raw file", "camera's software"),
        (b"FUJIFILMCCD-RAW 0201", "a camera's raw file", "camera's software"),
        (b"P5\n16 16\n255\n", "a Netpbm picture", "JPEG or PNG"),
        (b"Pf\n16 16\n-1.0\n", "a Netpbm picture", "JPEG or PNG"),
        (b"\x0a\5\1\x08", "a PCX picture", "JPEG or PNG"),
        (b"\0\5\x16\7\0\2\0\0", "metadata of macOS, not the picture", "Remove"),
        (b"\1\0\0\0" + bytes(36) + b" EMF", "an EMF drawing", "Export"),
        (
            b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>AccessDenied</Code>',
            "a storage server's error message, not the picture",
            "again",
        ),
        (bytes(128) + b"DICM", "a DICOM file", "JPEG or PNG"),
    ],
)
def test_format_is_named_with_advice(data: bytes, name: str, advice: str) -> None:
    named = name_format(data + bytes(100))
    assert named is not None
    assert named[0] == name
    assert advice in named[1]


@pytest.mark.parametrize(
    "data", [b"", b"x", b"text of any kind", bytes(500), b"II*\0" + bytes(50), b"<a><b>"]
)
def test_other_files_have_no_name(data: bytes) -> None:
    assert name_format(data) is None


@pytest.mark.timeout(10)
def test_hostile_text_is_examined_fast() -> None:
    for piece in (b"<!-- -->", b"<", b"<svg", b" "):
        name_format(piece * 1_000_000)
