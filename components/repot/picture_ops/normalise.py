"""Normalise a picture file in a TensorFlow graph, as `repot.pictures` does outside.

An exported model contains these operations, so that it sees the pixels of training. They accept
the kinds of files that TensorFlow decodes to the same pixels as Pillow, bit for bit, and reject all
others. `repot.serving_client.ACCEPTED_FILES` describes what they accept, and
`benchmarks/serving_skew.py` compares the two.

Sources: ITU-T T.81 (JPEG); https://www.w3.org/TR/png-3/ (PNG);
https://www.w3.org/Graphics/GIF/spec-gif89a.txt (GIF); BITMAPINFOHEADER of the Windows SDK (BMP).
"""

from typing import Any

import tensorflow as tf

from repot.bit_depth import DEPTHS
from repot.jpeg_structure import BETWEEN_SCANS, HUFFMAN_FRAMES, OTHER_FRAMES
from repot.picture_ops.orientation import exif_orientation, turn_upright, xmp_orientation
from repot.picture_ops.reading import (
    read_big,
    read_bytes,
    read_integer,
    read_little,
    require,
    starts_with,
)
from repot.pictures import MAX_JPEG_PIXELS, MAX_PIXELS, MAX_SIDE

_EXACT = "INTEGER_ACCURATE"
"""The inverse DCT of Pillow; the default of TensorFlow is less exact."""
_SCALES = (1, 2, 4, 8)
_START_OF_SCAN, _END, _PROGRESSIVE = 0xDA, 0xD9, 0xC2
_EXIF, _XMP = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0"
_PNG_GREY, _PNG_PALETTE, _PNG_GREY_ALPHA = 0, 3, 4
_GIF_CONTROL = 0xF9


def normalise(data: Any) -> Any:
    """Return a picture file as an upright RGB JPEG.

    Args:
        data: string [], the content of a file.

    Returns:
        string [], a JPEG with the pixels of `repot.pictures.normalise_picture(data).jpeg`.

    Raises:
        tf.errors.InvalidArgumentError: The file is not accepted.
    """
    content = read_bytes(data)
    return tf.case(
        [
            (starts_with(data, b"\xff\xd8\xff"), lambda: _normalise_jpeg(data, content)),
            (starts_with(data, b"\x89PNG\r\n\x1a\n"), lambda: _normalise_png(data, content)),
            (starts_with(data, b"GIF87a"), lambda: _normalise_gif(data, content)),
            (starts_with(data, b"GIF89a"), lambda: _normalise_gif(data, content)),
            (starts_with(data, b"BM"), lambda: _normalise_bmp(data, content)),
        ],
        default=lambda: require(data, False, "it is a JPEG, PNG, GIF or BMP file"),
    )


def _encode(rgb: Any) -> Any:
    """Return uint8 [height, width, 3] as a JPEG, as `repot.pictures` encodes it."""
    pixels = tf.ensure_shape(rgb, (None, None, 3))
    return tf.io.encode_jpeg(pixels, format="rgb", quality=100, chroma_downsampling=False)


def _check_size(value: Any, width: Any, height: Any, *, max_pixels: int = MAX_PIXELS) -> Any:
    num_pixels = tf.cast(width, tf.int64) * tf.cast(height, tf.int64)
    fits = (tf.minimum(width, height) > 0) & (tf.maximum(width, height) <= MAX_SIDE)
    return require(value, fits & (num_pixels <= max_pixels), f"it has 1 to {max_pixels:,} pixels")


def _normalise_jpeg(data: Any, content: Any) -> Any:
    size, zero = tf.strings.length(data), tf.constant(0)

    def is_before_scan(position: Any, marker: Any, *_: Any) -> Any:
        return (marker != _START_OF_SCAN) & (position < size)

    def next_segment(position: Any, _marker: Any, *found: Any) -> tuple[Any, ...]:
        frame, exif, num_exif, xmp, adobe = found
        marker = tf.cast(content[position + 1], tf.int32)
        is_fill = marker == 0xFF
        length = read_big(content, position + 2, 2)
        end = tf.where(is_fill, position + 1, position + 2 + length)
        is_known = (content[position] == 0xFF) & (is_fill | (length >= 2)) & (end <= size)
        is_known &= tf.reduce_all(marker != tf.constant(OTHER_FRAMES))
        end = require(end, is_known, "the segments of a JPEG are intact, with Huffman coding")
        is_frame = tf.reduce_any(marker == tf.constant(HUFFMAN_FRAMES))
        is_exif = (marker == 0xE1) & starts_with(data, _EXIF, position + 4)
        is_xmp = (marker == 0xE1) & starts_with(data, _XMP, position + 4)
        is_adobe = (marker == 0xEE) & starts_with(data, b"Adobe", position + 4)
        return (
            tf.where(marker == _START_OF_SCAN, position, end),
            marker,
            tf.where(is_frame, position, frame),
            tf.where(is_exif, position, exif),
            num_exif + tf.cast(is_exif, tf.int32),
            tf.where(is_xmp, position, xmp),
            tf.where(is_adobe, position, adobe),
        )

    # Positions of segments; 0 if there is none.
    scan, _, frame, exif, num_exif, xmp, adobe = tf.while_loop(
        is_before_scan, next_segment, (2, zero, zero, zero, zero, zero, zero)
    )
    components = tf.cast(content[frame + 9], tf.int32)
    height, width = read_big(content, frame + 5, 2), read_big(content, frame + 7, 2)
    # Pillow takes four components for Adobe's inverted CMYK.
    is_known = (components == 1) | (components == 3) | ((components == 4) & (adobe > 0))
    is_known &= (frame > 0) & (scan < size) & (content[frame + 4] == 8)
    data = require(data, is_known, "a JPEG is grey, RGB or Adobe's CMYK, with 8 bits")
    is_complete = _has_end_marker(content, size, scan=scan, frame=frame)
    data = require(data, is_complete, "a JPEG is complete")
    data = _check_size(data, width, height, max_pixels=MAX_JPEG_PIXELS)
    exif_body = content[exif + 10 : exif + 2 + read_big(content, exif + 2, 2)]
    xmp_length = tf.maximum(read_big(content, xmp + 2, 2) - 2 - len(_XMP), 0)
    orientation = _orientation(
        exif_body,
        num_exif,
        lambda: tf.strings.substr(data, xmp + 4 + len(_XMP), xmp_length),
        xmp > 0,
    )
    scale_index, scale = zero, tf.constant(1)
    for next_index, next_scale in reversed(list(enumerate(_SCALES))):
        # Rounded up, as libjpeg does; the sides are small enough for int32.
        fits = -(-width // next_scale) * -(-height // next_scale) <= MAX_PIXELS
        scale_index = tf.where(fits, next_index, scale_index)
        scale = tf.where(fits, next_scale, scale)

    def decode(channels: int) -> Any:
        branches = [
            lambda ratio=ratio: tf.io.decode_jpeg(
                data, channels=channels, ratio=ratio, dct_method=_EXACT
            )
            for ratio in _SCALES
        ]
        return tf.switch_case(scale_index, branches)

    def encode() -> Any:
        rgb = tf.cond(components == 1, lambda: tf.repeat(decode(1), 3, axis=2), lambda: decode(3))
        return _encode(turn_upright(rgb, orientation))

    is_upright = (orientation < 2) | (orientation > 8)
    return tf.cond((components == 3) & is_upright & (scale == 1), lambda: data, encode)


def _has_end_marker(content: Any, size: Any, *, scan: Any, frame: Any) -> Any:
    """Return whether all scans lead to the end marker, as `repot.jpeg_structure` defines it.

    Args:
        content: uint8 [n], the JPEG.
        size: Number of its bytes.
        scan: Position of the first scan's segment.
        frame: Position of the frame's segment.
    """
    entropy, following = content[scan:size], content[scan + 1 : size + 1]
    is_restart = (following >= 0xD0) & (following <= 0xD7)
    is_marker = (entropy == 0xFF) & (following != 0) & (following != 0xFF) & ~is_restart
    # markers: int32 [n], the positions of what can be a marker from the first scan on
    markers = tf.cast(tf.where(is_marker)[:, 0], tf.int32) + scan
    is_only_scan = (content[frame + 1] != _PROGRESSIVE) & (content[scan + 4] == content[frame + 9])

    def next_marker(position: Any, _marker: Any) -> tuple[Any, Any]:
        index = tf.searchsorted(markers, [position])[0]
        start = tf.concat([markers, [size]], 0)[index]
        marker = tf.cast(content[start + 1], tf.int32)
        end = start + 2 + read_big(content, start + 2, 2)
        is_between = tf.reduce_any(marker == tf.constant(BETWEEN_SCANS)) & ~is_only_scan
        is_between &= (end >= start + 4) & (end <= size)
        return tf.where(is_between, end, size), tf.where(start < size, marker, 0)

    first = scan + 2 + read_big(content, scan + 2, 2)
    _, marker = tf.while_loop(lambda position, _: position < size, next_marker, (first, 0))
    return marker == _END


def _orientation(exif: Any, num_exif: Any, read_xmp: Any, has_xmp: Any) -> Any:
    """Return the orientation, int32 []; 0 if none is stated. EXIF data comes before XMP data."""
    exif = require(exif, num_exif <= 1, "it has EXIF data at most once")
    stated = tf.cond(num_exif > 0, lambda: exif_orientation(exif), lambda: 0)
    return tf.cond((stated == 0) & has_xmp, lambda: xmp_orientation(read_xmp()), lambda: stated)


def _normalise_png(data: Any, content: Any) -> Any:
    size, zero = tf.strings.length(data), tf.constant(0)

    def is_before_end(position: Any, kind: Any, *_: Any) -> Any:
        return (kind != b"IEND") & (position < size)

    def next_chunk(position: Any, _kind: Any, *found: Any) -> tuple[Any, ...]:
        exif, num_exif, xmp, has_transparency = found
        length = read_integer(content, position, 4, is_little=False)
        end = tf.cast(position, tf.int64) + 12 + length
        # Checked before substr, whose error would contain the whole file.
        is_inside = end <= tf.cast(size, tf.int64)
        checked = require(data, is_inside, "the chunks of a PNG are complete")
        kind = tf.strings.substr(checked, position + 4, 4)
        is_text = (kind == b"tEXt") | (kind == b"zTXt") | (kind == b"iTXt")
        is_xmp = is_text & starts_with(data, b"XML:com.adobe.xmp\0", position + 8)
        is_readable_xmp = (kind == b"iTXt") & (content[position + 26] == 0)
        is_known = (kind != b"acTL") & (is_readable_xmp | ~is_xmp)
        is_known &= ~(is_text & starts_with(data, b"Raw profile type exif\0", position + 8))
        kind = require(kind, is_known, "a PNG has no animation, and no compressed EXIF or XMP")
        is_exif = kind == b"eXIf"
        return (
            tf.cast(end, tf.int32),
            kind,
            tf.where(is_exif, position, exif),
            num_exif + tf.cast(is_exif, tf.int32),
            tf.where(is_xmp, position, xmp),
            has_transparency | (kind == b"tRNS"),
        )

    # Positions of chunks; 0 if there is none.
    _, kind, exif, num_exif, xmp, has_transparency = tf.while_loop(
        is_before_end, next_chunk, (8, b"", zero, zero, zero, False)
    )
    width, height = read_big(content, 16, 4), read_big(content, 20, 4)
    depth, colours = tf.cast(content[24], tf.int32), tf.cast(content[25], tf.int32)
    is_complete = (kind == b"IEND") & starts_with(data, b"IHDR", 12)
    data = require(data, is_complete, "a PNG has a header and an end")
    is_exact = ~has_transparency | (colours == _PNG_PALETTE) | (depth == 8)
    data = require(data, is_exact, "a PNG with a transparent colour has 8 bits or a palette")
    data = _check_size(data, width, height)
    orientation = _orientation(
        content[exif + 8 : exif + 8 + read_big(content, exif, 4)],
        num_exif,
        lambda: tf.strings.substr(data, xmp + 8, read_big(content, xmp, 4)),
        xmp > 0,
    )
    is_grey = (colours == _PNG_GREY) | (colours == _PNG_GREY_ALPHA)

    def decode(channels: int) -> Any:
        return tf.cond(
            depth == 16,
            lambda: _scale_deep(
                tf.io.decode_png(data, channels=channels, dtype=tf.uint16), is_grey=is_grey
            ),
            lambda: tf.io.decode_png(data, channels=channels),
        )

    rgb = tf.cond(
        has_transparency | (colours >= _PNG_GREY_ALPHA),
        lambda: _on_white(decode(4)),
        # TensorFlow adds no alpha channel to packed pixels: it would return wrong colours.
        lambda: decode(3),
    )
    return _encode(turn_upright(rgb, orientation))


def _scale_deep(samples: Any, *, is_grey: Any) -> Any:
    """Return samples uint16 [height, width, 3 or 4] as uint8, as `repot.bit_depth` scales them."""
    limits = [2**depth - 1 for depth in DEPTHS if depth <= 16]

    def scale(band: Any) -> Any:
        band = tf.cast(band, tf.int32)
        index = tf.searchsorted(tf.constant(limits), [tf.reduce_max(band)])[0]
        factor = tf.gather(tf.constant([255 / limit for limit in limits], tf.float32), index)
        scaled = tf.cast(tf.round(tf.cast(band, tf.float32) * factor), tf.int32)
        # RGB that uses all bits is cut, not rounded.
        return tf.where(is_grey | (index < len(limits) - 1), scaled, band // 256)

    # Alpha, if there is any, has a range of its own.
    bands = [samples[..., :3]] + ([samples[..., 3:]] if samples.shape[-1] == 4 else [])
    return tf.cast(tf.concat([scale(band) for band in bands], axis=2), tf.uint8)


def _on_white(rgba: Any) -> Any:
    """Return RGBA pixels on white, with the integer arithmetic of Pillow's alpha_composite."""
    colour, alpha = tf.cast(rgba[..., :3], tf.int32), tf.cast(rgba[..., 3:], tf.int32)
    mixed = 128 * (colour * alpha + 255 * (255 - alpha)) + (128 << 7)
    return tf.cast((mixed // 256 + mixed) // 256 // 128, tf.uint8)


def _normalise_gif(data: Any, content: Any) -> Any:
    size = tf.strings.length(data)
    global_bytes = _gif_palette_bytes(content[10])

    def is_before_frame(position: Any, in_extension: Any, *_: Any) -> Any:
        return (position < size) & (in_extension | (content[position] == ord("!")))

    def next_block(position: Any, in_extension: Any, *found: Any) -> tuple[Any, ...]:
        """Step over the start of an extension, or over one of its data blocks."""
        control, num_controls = found
        length = tf.cast(content[position], tf.int32)
        is_control = ~in_extension & (content[position + 1] == _GIF_CONTROL)
        is_transparent = is_control & (content[position + 3] % 2 == 1)
        return (
            position + tf.where(in_extension, 1 + length, 2),
            ~in_extension | (length > 0),
            tf.where(is_transparent, position + 3, control),
            num_controls + tf.cast(is_control, tf.int32),
        )

    # control: position of the flags of the block that makes a colour transparent; 0 for none
    frame, _, control, num_controls = tf.while_loop(
        is_before_frame, next_block, (13 + global_bytes, False, 0, 0)
    )
    is_whole = (
        (frame + 10 <= size)
        & (content[frame] == ord(","))
        & tf.reduce_all(content[frame + 1 : frame + 5] == 0)
        & tf.reduce_all(content[frame + 5 : frame + 9] == content[6:10])
        & (num_controls <= 1)
    )
    data = require(data, is_whole, "the first frame of a GIF covers the picture")
    data = _check_size(data, read_little(content, 6, 2), read_little(content, 8, 2))
    local_bytes = _gif_palette_bytes(content[frame + 9])
    palette = tf.where(local_bytes > 0, frame + 10, 13)
    num_bytes = tf.where(local_bytes > 0, local_bytes, global_bytes)
    has_palette = (num_bytes > 0) & (palette + num_bytes <= size)
    data = require(data, has_palette, "a GIF has a palette")

    def with_white() -> Any:
        """Return the GIF with an opaque white instead of the transparent colour."""
        colour = 3 * tf.cast(content[control + 3], tf.int32)
        checked = require(data, colour < num_bytes, "the palette of a GIF has all colours")
        flags = tf.cast(content[control] - 1, tf.int32)
        opaque = _replace(checked, control, tf.gather([bytes([i]) for i in range(256)], flags))
        return _replace(opaque, palette + colour, b"\xff\xff\xff")

    pixels = tf.io.decode_image(
        tf.cond(control > 0, with_white, lambda: data), channels=3, expand_animations=False
    )
    return _encode(pixels)


def _gif_palette_bytes(flags: Any) -> Any:
    """Return the size of the palette that flags announce, int32 []; 0 for none."""
    num_bits = tf.cast(flags % 8, tf.int32) + 1
    return tf.where(flags >= 128, 3 * tf.bitwise.left_shift(1, num_bits), 0)


def _replace(data: Any, position: Any, piece: Any) -> Any:
    """Return a string [] with other bytes at a position."""
    end = position + tf.strings.length(piece)
    before = tf.strings.substr(data, 0, position)
    after = tf.strings.substr(data, end, tf.strings.length(data) - end)
    return tf.strings.join([before, piece, after])


def _normalise_bmp(data: Any, content: Any) -> Any:
    size = tf.strings.length(data)
    start, header_bytes = read_little(content, 10, 4), read_little(content, 14, 4)
    width, signed_height = read_little(content, 18, 4), read_little(content, 22, 4)
    bits, compression = read_little(content, 28, 2), read_little(content, 30, 4)
    num_colours = read_little(content, 46, 4)
    is_upright = signed_height < 0  # else, the last row comes first
    height = tf.abs(signed_height)
    palette_start = 14 + header_bytes
    is_indexed = bits <= 8
    num_colours = tf.where(num_colours == 0, tf.bitwise.left_shift(1, bits % 16), num_colours)
    palette_end = tf.where(is_indexed, palette_start + 4 * num_colours, palette_start)
    is_known = (header_bytes == 40) | (header_bytes == 108) | (header_bytes == 124)
    is_known &= tf.reduce_any(bits == tf.constant([1, 4, 8, 24, 32])) & (compression == 0)
    is_known &= ~is_indexed | ((num_colours > 0) & (num_colours <= 256))
    is_known &= (start >= palette_start) & (~is_indexed | (start > palette_start))
    content = require(content, is_known, "a BMP is uncompressed, with 1, 4, 8, 24 or 32 bits")
    content = _check_size(content, width, height)
    row_bytes = (width * bits + 31) // 32 * 4
    end = start + row_bytes * height
    is_complete = (end <= size) & (palette_end <= size)
    content = require(content, is_complete, "a BMP is complete")
    # rows: uint8 [height, row_bytes], the upper row first
    stored = tf.reshape(content[start:end], (height, row_bytes))
    rows = tf.cond(is_upright, lambda: stored, lambda: tf.reverse(stored, [0]))

    def look_up(bits: int) -> Any:
        shifts = tf.range(8 - bits, -1, -bits, dtype=tf.int32)
        packed = tf.bitwise.right_shift(tf.cast(rows, tf.int32)[..., tf.newaxis], shifts)
        indices = tf.reshape(tf.bitwise.bitwise_and(packed, 2**bits - 1), (height, -1))[:, :width]
        # palette: uint8 [num_colours, 3], RGB
        palette = tf.reshape(content[palette_start:palette_end], (-1, 4))
        palette = tf.gather(palette, (2, 1, 0), axis=1)
        is_inside = tf.reduce_max(indices) < num_colours
        # Pillow does not unpack the bits of some palettes that it takes for plain grey.
        greys = tf.cond(
            num_colours == 2, lambda: tf.constant([0, 255]), lambda: tf.range(num_colours)
        )
        is_grey = tf.reduce_all(tf.cast(palette, tf.int32) == greys[:, tf.newaxis])
        is_exact = ~is_grey | ((num_colours > 2) & (bits == 8)) | ((num_colours == 2) & (bits == 1))
        palette = require(palette, is_inside & is_exact, "a BMP has the palette for its bits")
        return tf.gather(palette, indices)

    def pixels_of(bits: int) -> Any:
        if bits <= 8:
            return look_up(bits)
        pixel_bytes = bits // 8
        pixels = tf.reshape(rows[:, : width * pixel_bytes], (height, width, pixel_bytes))
        return tf.gather(pixels, (2, 1, 0), axis=2)

    cases = [(bits == number, lambda number=number: pixels_of(number)) for number in (1, 4, 8, 24)]
    return _encode(tf.case(cases, default=lambda: pixels_of(32)))
