"""Decide whether two pictures show the same, by aligning their miniatures.

The parts of both that a hash found alike are aligned by shift and scale, first at a quarter and at
half of the resolution (B. Lucas, T. Kanade, "An Iterative Image Registration Technique", 1981, on a
pyramid). Then they are blurred to the resolution of the smaller picture, and must agree in
brightness, contrast and colour, and in every small part: what compression and resizing change is
spread evenly and small, while drawings of one family differ much somewhere.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from repot.picture_result import MINIATURE_SIDE
from repot.shard_builder.appearances import Rows

Floats = NDArray[np.float32]
Indices = NDArray[np.int64]

_SIDE = MINIATURE_SIDE

# (reduction, steps, least correlation after them) of each level of the pyramid.
_LEVELS = ((4, 4, 0.3), (2, 4, 0.5), (1, 2, 0.7), (1, 2, 0.0))
_MAX_STEP, _MAX_MOVE = 0.05, 0.12

# At most this share of the parts may differ more than they vary.
_MAX_UNLIKE = 0.25

# Limits of verification, found on one half of drawings, cut-outs, textures and photographs. A copy
# is as bright as the picture, in grey levels, and has its contrast, as a ratio's logarithm. The
# difference of a small part, as the root of the mean square, is at most _MAX_PART grey levels, and
# at most _PART_CONTRAST of the picture's standard deviation, plus what compression adds. Colours
# differ by at most _MAX_COLOUR of 255 in a part, and by _MAX_TINT as a whole.
_MAX_BRIGHTNESS, _MAX_CONTRAST = 4.0, 0.25
_MAX_PART, _PART_CONTRAST, _PART_NOISE = 11.0, 0.3, 1.5
_MAX_COLOUR, _MAX_TINT = 12.0, 9.0
# The same before the last step of the alignment. It rules out half of the candidates early.
_MAX_UNALIGNED = 10.0
_NOISE = 2.5
"""Standard deviation of the difference that compression makes, in grey levels."""
_SMALL_PART_SIDE, _PART_SIDE = 4, 8
# Standard deviation of the blur before parts are compared: of the miniature, and of the smaller
# picture, each in its own pixels. Without it, a thin line that is sampled elsewhere would differ.
_BLUR, _PICTURE_BLUR = 0.9, 0.9
_MIN_PICTURE_SIDE = 8
# The outermost pixels, which may still contain some of a border, are not compared.
_MARGIN = 2
# The largest error of linear interpolation between means of pixels at an edge, as a share of it.
_COLOUR_EDGE = 0.25


@dataclass(frozen=True, slots=True)
class Parts:
    """A part of each of many pictures, or of their mirror images.

    Attributes:
        pictures: int64 [n], rows of `repot.shard_builder.appearances.APPEARANCE`.
        boxes: float32 [n, 4], the part: left, right, top, bottom, as shares.
        is_mirrored: bool [n], whether it is a part of the mirror image.
    """

    pictures: Indices
    boxes: Floats
    is_mirrored: NDArray[np.bool_]

    def luminance(self, rows: Rows) -> Floats:
        """Return the pictures or their mirror images as a whole: float32 [n, side, side]."""
        return self._mirrored(rows["luminance"][self.pictures].astype(np.float32))

    def chroma(self, rows: Rows, band: int) -> Floats:
        """Return the colours likewise: float32 [n, side, side]."""
        return self._mirrored(rows["chroma"][self.pictures, band].astype(np.float32))

    def sides(self, rows: Rows, boxes: Floats) -> Floats:
        """Return how many pixels boxes have in the pictures: float32 [n, 2], width and height."""
        sizes = np.stack([rows["width"][self.pictures], rows["height"][self.pictures]], axis=1)
        sides: Floats = (sizes * np.abs(boxes[:, 1::2] - boxes[:, ::2])).astype(np.float32)
        return sides

    def _mirrored(self, pictures: Floats) -> Floats:
        pictures[self.is_mirrored] = pictures[self.is_mirrored][:, :, ::-1]
        return pictures

    def turned(self) -> "Parts":
        """Return the same parts of the mirror images."""
        boxes = np.stack(
            [1 - self.boxes[:, 1], 1 - self.boxes[:, 0], self.boxes[:, 2], self.boxes[:, 3]], axis=1
        )
        return Parts(self.pictures, boxes, ~self.is_mirrored)

    def choose(self, chosen: NDArray[np.bool_] | Indices) -> "Parts":
        """Return some of the parts."""
        return Parts(self.pictures[chosen], self.boxes[chosen], self.is_mirrored[chosen])


def are_copies(rows: Rows, first: Parts, second: Parts) -> NDArray[np.bool_]:
    """Return which pairs of parts show the same: bool [n]."""
    result, is_alike = _check(rows, first, second)
    # Of a drawing that is nearly symmetric, the mirror image may have the nearer hash.
    again = np.flatnonzero(is_alike & ~result)
    result[again] = _check(rows, first.choose(again).turned(), second.choose(again))[0]
    return result


def _check(rows: Rows, first: Parts, second: Parts) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return which pairs are copies, and which ones are alike at low resolution: bool [n] each."""
    num_pairs = len(first.pictures)
    likely = np.arange(num_pairs)
    one, other = first.luminance(rows), second.luminance(rows)
    boxes, starts, targets = first.boxes, first.boxes, second.boxes
    for reduction, num_steps, limit in _LEVELS:
        small, other_small = _reduce(one, reduction), _reduce(other, reduction)
        other_small, _ = _sample(other_small, targets)
        boxes = _align(small, boxes, starts, other_small, num_steps)
        both = _compare(small, boxes, other_small)
        # Of a fine texture, little more than noise may be left at a lower resolution.
        noise = (1 + np.square(_NOISE / reduction)) / both.contrasts.prod(axis=0)
        is_likely = both.correlation + noise >= limit
        kept = np.flatnonzero(is_likely & (both.brightness <= _MAX_UNALIGNED))
        likely, one, other = likely[kept], one[kept], other[kept]
        boxes, starts, targets = boxes[kept], starts[kept], targets[kept]
    is_copy, is_alike = np.zeros((2, num_pairs), np.bool_)
    is_alike[likely] = True
    both = _compare(one, boxes, _sample(other, targets)[0])
    first, second = first.choose(likely), second.choose(likely)
    # sides: float32 [n, 2], width and height in pixels of what is compared, in the smaller picture
    sides = np.minimum(first.sides(rows, boxes), second.sides(rows, targets))
    kept = np.flatnonzero(_agree(both, sides))
    likely, boxes, targets = likely[kept], boxes[kept], targets[kept]
    kept = np.flatnonzero(
        _colours_agree(rows, first.choose(kept), second.choose(kept), boxes, targets)
    )
    is_copy[likely[kept]] = True
    return is_copy, is_alike


def sampling(ranges: Floats, side: int = _SIDE) -> tuple[Floats, NDArray[np.bool_]]:
    """Return what samples parts of lines of pixels at as many points, by cubic interpolation.

    Source: R. Keys, "Cubic Convolution Interpolation for Digital Image Processing", 1981. Linear
    interpolation would blur fine detail between the pixels.

    Args:
        ranges: float32 [n, 2], first and last position, as shares of the line.
        side: Number of pixels in a line.

    Returns:
        float32 [n, side, side], points times pixels; bool [n, side], whether a point is inside.
    """
    steps = (np.arange(side, dtype=np.float32) + 0.5) / side
    positions = (ranges[:, :1] + (ranges[:, 1:] - ranges[:, :1]) * steps) * side - 0.5
    clipped = np.clip(positions, 0, side - 1)
    whole = clipped.astype(np.int64)
    part = (clipped - whole).astype(np.float32)
    square, cube = part**2, part**3
    # Lines of pixels with one more before, and two more after them.
    weights = np.zeros((len(ranges), side, side + 3), np.float32)
    first = np.arange(weights[..., 0].size).reshape(whole.shape) * (side + 3) + whole
    for place, taps in enumerate(
        (
            square - (part + cube) / 2,
            1 - 2.5 * square + 1.5 * cube,
            part / 2 + 2 * square - 1.5 * cube,
            (cube - square) / 2,
        )
    ):
        weights.reshape(-1)[first + place] = taps
    weights[..., 1] += weights[..., 0]
    weights[..., side] += weights[..., side + 1] + weights[..., side + 2]
    return weights[..., 1 : side + 1], (positions > -0.75) & (positions < side - 0.25)


def _reduce(luminance: Floats, factor: int) -> Floats:
    side = luminance.shape[1] // factor
    reduced: Floats = luminance.reshape(-1, side, factor, side, factor).mean(
        axis=(2, 4), dtype=np.float32
    )
    return reduced


@dataclass(frozen=True, slots=True)
class _Compared:
    """Two pictures at the same points: mean 0 and variance 1 where both are; 0 elsewhere.

    Attributes:
        first, second: float32 [n, side, side].
        inside: float32 [n, side, side], 1 where both are.
        num_pixels: float32 [n], the number of points where both are.
        means: float32 [2, n], mean luminance there of the first and of the second pictures.
        contrasts: float32 [2, n], standard deviation there.
    """

    first: Floats
    second: Floats
    inside: Floats
    num_pixels: Floats
    means: Floats
    contrasts: Floats

    @property
    def correlation(self) -> Floats:
        """Return the correlation of each pair of pictures."""
        sums: Floats = (self.first * self.second).sum(axis=(1, 2))
        return sums / self.num_pixels

    @property
    def brightness(self) -> Floats:
        """Return the difference of the mean luminance of each pair."""
        difference: Floats = np.abs(self.means[0] - self.means[1])
        return difference


def _compare(first: Floats, boxes: Floats, other: Floats) -> _Compared:
    """Compare boxes of pictures with other pictures as a whole."""
    one, is_inside = _sample(first, boxes)
    margin = max(1, _MARGIN * first.shape[1] // _SIDE)
    inside = np.zeros_like(one)
    window = (slice(None), slice(margin, -margin), slice(margin, -margin))
    inside[window] = is_inside[window]
    num_pixels: Floats = np.maximum(inside.sum(axis=(1, 2), dtype=np.float32), 1)
    one, mean, contrast = _standardise(one, inside, num_pixels)
    other, other_mean, other_contrast = _standardise(other, inside, num_pixels)
    means, contrasts = np.stack([mean, other_mean]), np.stack([contrast, other_contrast])
    return _Compared(one, other, inside, num_pixels, means, contrasts)


def _sample(luminance: Floats, boxes: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    side = luminance.shape[1]
    across, is_across = sampling(boxes[:, :2], side)
    down, is_down = sampling(boxes[:, 2:], side)
    sampled = (down @ luminance @ across.transpose(0, 2, 1)).astype(np.float32, copy=False)
    return sampled, is_down[:, :, np.newaxis] & is_across[:, np.newaxis]


def _standardise(
    picture: Floats, inside: Floats, num_pixels: Floats
) -> tuple[Floats, Floats, Floats]:
    """Return pictures with mean 0 and variance 1, and the mean and deviation that they had."""
    num_pixels = num_pixels[:, np.newaxis, np.newaxis]
    mean = (picture * inside).sum(axis=(1, 2), keepdims=True) / num_pixels
    centered: Floats = (picture - mean) * inside
    variance = np.square(centered).sum(axis=(1, 2), keepdims=True) / num_pixels
    contrast = np.sqrt(variance + 1)
    centered /= contrast
    return centered, mean[:, 0, 0], contrast[:, 0, 0]


def _align(first: Floats, boxes: Floats, starts: Floats, second: Floats, num_steps: int) -> Floats:
    """Move boxes of the first pictures to what the second pictures show.

    Args:
        first: float32 [n, side, side], luminance.
        boxes: float32 [n, 4], where the boxes are.
        starts: float32 [n, 4], where they were at first: they are moved back if it was better.
        second: float32 [n, side, side], luminance.
        num_steps: How often they are moved.

    Returns:
        The boxes with the highest correlation of all steps.
    """
    side = first.shape[1]
    steps = (np.arange(side, dtype=np.float32) + 0.5) / side
    if boxes is not starts:
        before, after = (_compare(first, each, second).correlation for each in (starts, boxes))
        boxes = np.where((after > before)[:, np.newaxis], boxes, starts)
    best, highest = boxes.copy(), np.full(len(boxes), -2, np.float32)
    for step in range(num_steps + 1 if len(boxes) else 0):
        both = _compare(first, boxes, second)
        correlation = both.correlation
        is_better = correlation > highest
        best[is_better], highest[is_better] = boxes[is_better], correlation[is_better]
        if step == num_steps:
            break
        down, across = np.gradient(both.first, axis=(1, 2))
        sizes = boxes[:, 1::2] - boxes[:, ::2]
        across *= side / sizes[:, 0][:, np.newaxis, np.newaxis]
        down *= side / sizes[:, 1][:, np.newaxis, np.newaxis]
        # slopes: float32 [n, pixels, 4], by left, right, top and bottom
        slopes = np.stack(
            [
                across * (1 - steps),
                across * steps,
                down * (1 - steps)[:, np.newaxis],
                down * steps[:, np.newaxis],
            ],
            axis=-1,
        )
        slopes = (slopes * both.inside[..., np.newaxis]).reshape(len(first), -1, 4)
        missing = (both.second - both.first).reshape(len(first), -1, 1)
        squares = slopes.transpose(0, 2, 1) @ slopes
        damping = 1e-3 * np.trace(squares, axis1=1, axis2=2) / 4 + 1e-3
        squares += damping[:, np.newaxis, np.newaxis] * np.eye(4, dtype=np.float32)
        moves = np.linalg.solve(squares, slopes.transpose(0, 2, 1) @ missing)[..., 0]
        boxes = boxes + np.clip(moves, -_MAX_STEP, _MAX_STEP)
        boxes = np.clip(boxes, starts - _MAX_MOVE, starts + _MAX_MOVE)
    return best


def _agree(both: _Compared, sides: Floats) -> NDArray[np.bool_]:
    """Return which pictures agree as a whole, in brightness, in contrast and in every part.

    Args:
        both: The pictures.
        sides: float32 [n, 2], width and height of the smaller one of each pair, in its pixels.
    """
    noise = np.square(_NOISE) / both.contrasts.prod(axis=0)
    # A picture that was enlarged or moved by part of a pixel has less contrast in fine detail only.
    coarse = [_reduce(each, 2).std(axis=(1, 2)) + 1e-3 for each in (both.first, both.second)]
    ratio = np.log(both.contrasts[0] / both.contrasts[1])
    ratios = np.abs(ratio), np.abs(ratio + np.log(coarse[0] / coarse[1]))
    largest = np.minimum(_MAX_PART, _PART_CONTRAST * both.contrasts.min(axis=0) + _PART_NOISE)
    is_same: NDArray[np.bool_] = (
        (both.brightness <= _MAX_BRIGHTNESS)
        & (np.minimum(*ratios) <= _MAX_CONTRAST + noise / 2)
        & (_unlike_share(both) <= _MAX_UNLIKE)
        & (_largest_difference(both, sides) <= largest)
    )
    return is_same


def _largest_difference(both: _Compared, sides: Floats) -> Floats:
    """Return how much the most different small parts differ, in grey levels: float32 [n]."""
    one = both.first * both.contrasts[0, :, np.newaxis, np.newaxis]
    one -= both.second * both.contrasts[1, :, np.newaxis, np.newaxis]
    places = np.arange(_SIDE, dtype=np.float32)
    apart = np.square(places[:, np.newaxis] - places)
    pixels = _SIDE / np.maximum(sides, _MIN_PICTURE_SIDE)
    variances = np.square(_BLUR) + np.square(_PICTURE_BLUR * pixels)
    # blurs: float32 [n, 2, side, side], across and down
    blurs = np.exp(-apart / (2 * variances[..., np.newaxis, np.newaxis]))
    blurs /= blurs.sum(axis=-1, keepdims=True)
    difference = (blurs[:, 1] @ one @ blurs[:, 0].transpose(0, 2, 1)) * both.inside
    squares = _box_sums(np.square(difference), _SMALL_PART_SIDE).max(axis=(1, 2))
    largest: Floats = np.sqrt(np.maximum(squares, 0)) / _SMALL_PART_SIDE
    return largest


def _unlike_share(both: _Compared) -> Floats:
    """Return the share of the parts that differ more than they vary: float32 [n].

    Without it, a border of strong contrast would make any two faint pictures inside it alike.
    """
    levels = both.contrasts.mean(axis=0)[:, np.newaxis, np.newaxis]
    one, other, between = (
        _reduce(np.square(each), _PART_SIDE) - np.square(_reduce(each, _PART_SIDE))
        for each in (both.first, both.second, both.first - both.second)
    )
    is_unlike = (between - (one + other) / 2) * np.square(levels) > _NOISE**2
    shares: Floats = is_unlike.mean(axis=(1, 2), dtype=np.float32)
    return shares


def _neighbours(picture: Floats, extreme: np.ufunc) -> Floats:
    """Return the highest or lowest value of each pixel and its eight neighbours."""
    result = picture.copy()
    extreme(result[:, 1:], picture[:, :-1], out=result[:, 1:])
    extreme(result[:, :-1], picture[:, 1:], out=result[:, :-1])
    rows = result.copy()
    extreme(result[:, :, 1:], rows[:, :, :-1], out=result[:, :, 1:])
    extreme(result[:, :, :-1], rows[:, :, 1:], out=result[:, :, :-1])
    return result


def _box_sums(picture: Floats, size: int) -> Floats:
    """Return the sums of all squares of `size` x `size` pixels."""
    sums = np.zeros((len(picture), picture.shape[1] + 1, picture.shape[2] + 1), np.float32)
    sums[:, 1:, 1:] = picture.cumsum(axis=1).cumsum(axis=2)
    return (
        sums[:, size:, size:]
        - sums[:, :-size, size:]
        - sums[:, size:, :-size]
        + sums[:, :-size, :-size]
    )


def _colours_agree(
    rows: Rows, first: Parts, second: Parts, boxes: Floats, second_boxes: Floats
) -> NDArray[np.bool_]:
    """Return which pairs have the same colours, in every part and as a whole."""
    largest, tint = np.zeros((2, len(boxes)), np.float32)
    for band in range(2):
        colours = first.chroma(rows, band), second.chroma(rows, band)
        one, other = _sample(colours[0], boxes)[0], _sample(colours[1], second_boxes)[0]
        difference = (one - other)[:, 1:-1, 1:-1]
        tint = np.maximum(tint, np.abs(difference.mean(axis=(1, 2))))
        edges = [_neighbours(each, np.maximum) - _neighbours(each, np.minimum) for each in colours]
        unexplained = np.abs(difference) - _COLOUR_EDGE * np.maximum(*edges)[:, 1:-1, 1:-1]
        largest = np.maximum(largest, unexplained.max(axis=(1, 2)))
    is_same: NDArray[np.bool_] = (largest <= _MAX_COLOUR) & (tint <= _MAX_TINT)
    return is_same
