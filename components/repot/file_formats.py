"""Name the formats that repot does not read, from the first bytes of a file, with what to do.

Sources of the signatures: https://www.iana.org/assignments/media-types,
https://www.garykessler.net/library/file_sigs.html, and ISO/IEC 14496-12 for the `ftyp` brands.
"""

import itertools
import re
from typing import Literal

from repot.extras import install_command

_CONVERT = "Convert it to JPEG or PNG."
_EXPORT = "Export the pages or drawings as JPEG or PNG."
_DEVELOP = "Export it from the camera's software as JPEG or TIFF."
_EXTRACT = "Save the frames that you want as JPEG or PNG."
_UNPACK = "Unpack it."
_REMOVE = "Remove it."

RAW = ("a camera's raw file", _DEVELOP)

HEIC = (
    "a HEIC picture",
    f"Convert it to JPEG, or install the optional decoder: {install_command('heif')}.",
)
AVIF = ("an AVIF picture", "Convert it to JPEG, or install a Pillow with AVIF support.")
_VIDEO = ("a video", _EXTRACT)
_ARCHIVE = ("an archive", _UNPACK)

# Name and advice by the bytes at the start of the file.
_SIGNATURES = (
    (b"\0\0\0\x0cJXL \r\n\x87\n", ("a JPEG XL picture", _CONVERT)),
    (b"\xff\x0a", ("a JPEG XL picture", _CONVERT)),
    (b"\0\0\0\x0cjP  \r\n\x87\n", ("a JPEG 2000 picture", _CONVERT)),
    (b"\xff\x4f\xff\x51", ("a JPEG 2000 picture", _CONVERT)),
    (b"II\xbc", ("a JPEG XR picture", _CONVERT)),
    (b"8BPS", ("a Photoshop document", _EXPORT)),
    (b"gimp xcf", ("a GIMP document", _EXPORT)),
    (b"\x76\x2f\x31\x01", ("an OpenEXR picture", _CONVERT)),
    (b"#?RADIANCE", ("a Radiance HDR picture", _CONVERT)),
    (b"DDS ", ("a DirectDraw texture", _CONVERT)),
    (b"qoif", ("a QOI picture", _CONVERT)),
    (b"BPG\xfb", ("a BPG picture", _CONVERT)),
    (b"FLIF", ("a FLIF picture", _CONVERT)),
    (b"\x8aMNG", ("an MNG animation", _EXTRACT)),
    (b"\x8bJNG", ("a JNG picture", _CONVERT)),
    (b"SIMPLE  =", ("a FITS file", _CONVERT)),
    (b"\0\0\1\0", ("an icon", _CONVERT)),
    (b"\0\0\2\0", ("a cursor or a Targa picture", _CONVERT)),
    (b"\x0a\5\1", ("a PCX picture", _CONVERT)),
    (b"\x01\xda", ("an SGI picture", _CONVERT)),
    (b"\x59\xa6\x6a\x95", ("a Sun raster picture", _CONVERT)),
    (b"/* XPM */", ("an XPM picture", _CONVERT)),
    (b"#define ", ("an XBM picture or a program's source", _CONVERT)),
    (b"\xabKTX ", ("a KTX texture", _CONVERT)),
    (b"\0\5\x16\7", ("metadata of macOS, not the picture", _REMOVE)),
    (b"icns", ("an icon", _CONVERT)),
    (b"AT&TFORM", ("a DjVu document", _EXPORT)),
    (b"%PDF-", ("a PDF document", _EXPORT)),
    (b"%!PS", ("a PostScript document", _EXPORT)),
    (b"\xc5\xd0\xd3\xc6", ("a PostScript document", _EXPORT)),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", ("an Office document", _EXPORT)),
    (b"\xd7\xcd\xc6\x9a", ("a WMF drawing", _EXPORT)),
    (b"{\\rtf", ("an RTF document", _EXPORT)),
    (b"FUJIFILMCCD-RAW", RAW),
    (b"II\x1a\0\0\0HEAPCCDR", RAW),
    (b"IIU\0", RAW),
    (b"IIRO", RAW),
    (b"IIRS", RAW),
    (b"MMOR", RAW),
    (b"FOVb", RAW),
    (b"\0MRM", RAW),
    (b"\x1a\x45\xdf\xa3", _VIDEO),
    (b"FLV\1", _VIDEO),
    (b"\0\0\1\xba", _VIDEO),
    (b"\0\0\1\xb3", _VIDEO),
    (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", _VIDEO),
    (b"OggS", ("an audio or video file", _EXTRACT)),
    (b"ID3", ("an audio file", _REMOVE)),
    (b"fLaC", ("an audio file", _REMOVE)),
    (b"PK\3\4", ("a ZIP archive or an Office document", _UNPACK)),
    (b"\x1f\x8b", ("a gzip archive", _UNPACK)),
    (b"BZh", _ARCHIVE),
    (b"\xfd7zXZ\0", _ARCHIVE),
    (b"\x28\xb5\x2f\xfd", _ARCHIVE),
    (b"7z\xbc\xaf\x27\x1c", _ARCHIVE),
    (b"Rar!", _ARCHIVE),
    (b"\x93NUMPY", ("a NumPy array", _CONVERT)),
    (b"\x89HDF\r\n", ("an HDF5 file", _CONVERT)),
    (b"SQLite format 3", ("a SQLite database", _REMOVE)),
    (b"version https://git-lfs", ("a Git LFS pointer", "Run `git lfs pull`.")),
    (b"\x7fELF", ("a program", _REMOVE)),
)
# Name and advice by bytes at another offset.
_SIGNATURES_INSIDE = (
    (8, b"AVI LIST", _VIDEO),
    (40, b" EMF", ("an EMF drawing", _EXPORT)),
    (8, b"WAVE", ("an audio file", _REMOVE)),
    (4, b"moov", _VIDEO),
    (4, b"mdat", _VIDEO),
    (4, b"wide", _VIDEO),
    (128, b"DICM", ("a DICOM file", _CONVERT)),
    (257, b"ustar", _ARCHIVE),
    (344, b"n+1\0", ("a NIfTI volume", _CONVERT)),
)
_PATTERNS = (
    (re.compile(rb"P[1-7Ff]\s"), ("a Netpbm picture", _CONVERT)),
    (re.compile(rb"(II\*\0|MM\0\*)....CR", re.DOTALL), RAW),
    (
        re.compile(rb"\s*<(!doctype\s+html|html|head|body)\b", re.IGNORECASE),
        ("a web page, not the picture that it shows", "Download the picture again."),
    ),
    (
        re.compile(rb"(<\?xml[^>]{,99}>)?\s{,9}<Error>"),
        ("a storage server's error message, not the picture", "Download the picture again."),
    ),
    (re.compile(rb"\s*<.*?<svg\b|\s*<svg\b", re.DOTALL), ("an SVG drawing", _EXPORT)),
)
_HEAD_BYTES = 4096

# Compressions of TIFF that Pillow does not read.
# Source: https://www.loc.gov/preservation/digital/formats/content/tiff_tags.shtml
_TIFF_COMPRESSIONS = {
    22610: "JPEG XR",
    32809: "ThunderScan",
    33003: "JPEG 2000",
    33005: "JPEG 2000",
    34661: "JBIG",
    34676: "SGI LogLuv",
    34677: "SGI LogLuv",
    34712: "JPEG 2000",
    34887: "LERC",
    34892: "lossy JPEG",
    34933: "PNG",
    34934: "JPEG XR",
    50001: "WebP",
    50002: "JPEG XL",
    52546: "JPEG XL",
}
_COMPRESSION_TAG = 259


def name_format(data: bytes) -> tuple[str, str] | None:
    """Return the name of a file's format, such as "a PDF document", and what to do about it.

    Returns:
        Two texts; None for the formats that repot reads, and for unknown formats.
    """
    head = data[:_HEAD_BYTES].removeprefix(b"\xef\xbb\xbf")
    if head[4:8] == b"ftyp":
        return _name_media_file(head)
    descriptions = itertools.chain(
        (each for signature, each in _SIGNATURES if head.startswith(signature)),
        (each for start, inner, each in _SIGNATURES_INSIDE if head.startswith(inner, start)),
        (each for pattern, each in _PATTERNS if pattern.match(head)),
    )
    return next(descriptions, None)


def name_rare_tiff(data: bytes) -> str:
    """Return what is unusual about a TIFF's coding; "" for other data."""
    if data.startswith(b"MM\0+"):
        return "the big-endian BigTIFF format"
    order: Literal["little", "big"] = "little" if data.startswith(b"II") else "big"
    if not data.startswith((b"II*\0", b"MM\0*")):
        return ""
    directory = int.from_bytes(data[4:8], order)
    num_entries = int.from_bytes(data[directory : directory + 2], order)
    for number in range(num_entries):
        start = directory + 2 + 12 * number
        if int.from_bytes(data[start : start + 2], order) == _COMPRESSION_TAG:
            code = int.from_bytes(data[start + 8 : start + 10], order)
            name = _TIFF_COMPRESSIONS.get(code)
            return f"{name} compression" if name else ""
    return ""


def _name_media_file(head: bytes) -> tuple[str, str]:
    """Name a file in the ISO base media format by its major brand and compatible brands."""
    size = int.from_bytes(head[:4], "big")
    brands = [head[8:12], *(head[start : start + 4] for start in range(16, min(size, 256), 4))]
    if brands[0] == b"crx ":
        return RAW
    if any(brand in (b"avif", b"avis") for brand in brands):
        return AVIF
    if any(brand[:3] in (b"hei", b"hev", b"mif", b"msf") for brand in brands):
        return HEIC
    if brands[0] in (b"jp2 ", b"jpx "):
        return "a JPEG 2000 picture", _CONVERT
    return _VIDEO
