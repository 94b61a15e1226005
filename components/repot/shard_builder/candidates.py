"""Find pairs of pictures that may show the same, by hashes of their miniatures.

1.  Hash: the 42 lowest frequencies of a picture's cosine transform, as in pHash (C. Zauner,
    "Implementation and Benchmarking of Perceptual Image Hash Functions", 2010), of several views:
    the whole picture, two crops, what is inside a border of any and of equal widths, and the mirror
    image of each. Signs of single frequencies flip easily where a picture has little of a
    frequency, so that bits are signs of random projections (M. Charikar, "Similarity Estimation
    Techniques from Rounding Algorithms", 2002) of the frequencies in their principal components.
2.  Candidates: pictures that agree in all bits of one of several tables, also after flipping the
    least certain bits (Q. Lv et al., "Multi-Probe LSH", 2007). The time grows with the number of
    pictures, not with its square: of a large group of alike pictures, each is compared with a few.

No library of perceptual hashes is used: they hash a picture file or an image object, but here only
the decoder's process has one, and every view of a million pictures must be hashed; on arrays of
miniatures that is a few matrix products.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from repot.picture_result import MINIATURE_SIDE
from repot.shard_builder.alignment import Floats, Indices, sampling
from repot.shard_builder.appearances import Rows

_SIDE = MINIATURE_SIDE
_WHOLE = np.array([[0, 1, 0, 1]], np.float32)
_CROPS = (0.025, 0.05)
"""What two of the views leave out on each side, as a share."""
# A border has a straight edge if this share of the pixels along it differ by as many levels.
_STRAIGHT, _EDGE_STEP = 0.8, 8.0

# Vertical and horizontal frequency, the lowest first; without (0, 0), the mean.
_NUM_FREQUENCIES = 8
_FREQUENCIES = np.array(
    [
        (total - horizontal, horizontal)
        for total in range(1, _NUM_FREQUENCIES + 1)
        for horizontal in range(total + 1)
        if max(horizontal, total - horizontal) < _NUM_FREQUENCIES
    ]
)
_MIRROR_SIGNS = np.where(_FREQUENCIES[:, 1] % 2, -1, 1).astype(np.float32)

_NUM_TABLES, _NUM_DIMENSIONS, _NUM_FLIPPED = 5, 24, 3
_MIN_BITS, _MAX_BITS = 12, 22
_NUM_SAMPLED = 20_000
_MAX_PER_BUCKET = 16
# Near pairs differ in about 9 of the 64 bits of their signatures, others in 32.
_MAX_SIGNATURE_BITS = 20
# Candidates are at most this far apart, relative to the length of their hash vector.
_MAX_DISTANCE = 0.55
# Each picture is a candidate for about as many of the nearest.
MAX_COMPARED = 16
# Beyond this distance, only with the very nearest: there are many such pairs by chance.
_SURE_DISTANCE, _MAX_UNSURE = 0.4, 4
# Candidates that wait to be reduced to the nearest; 36 bytes each.
_MAX_WAITING = 500_000
_CHUNK, _CHUNK_HASHED = 512, 1 << 15
# Buckets whose pictures are compared at once: 16 times as many pairs at most.
_NUM_BUCKETS = 1 << 12
# OpenBLAS uses one thread up to this number of multiplications. Source: its interface/gemm.c.
_MAX_PRODUCT = 1 << 18


@dataclass(frozen=True, slots=True)
class View:
    """The same part of many pictures, or of their mirror images, hashed.

    Attributes:
        members: int64 [n], the pictures.
        boxes: float32 [n, 4] or [1, 4], the part: left, right, top, bottom, as shares.
        is_mirrored: Whether it is a part of the mirror image.
        is_target: Whether it is one of those that all views are compared with.
        vectors: float16 [n, dimensions], the hash vectors.
    """

    members: Indices
    boxes: Floats
    is_mirrored: bool
    is_target: bool
    vectors: NDArray[np.float16]


_Inside = Callable[[Rows, Indices], tuple[Floats, Indices]]
"""Returns boxes and inner columns and rows of pictures, see `_inside_border`."""

PAIR = np.dtype([("query", "<i8"), ("target", "<i8"), ("views", "<i2", (2,)), ("distance", "<f4")])


def make_views(rows: Rows, used: Indices) -> list[View]:
    """Return the hashed views of all pictures."""
    sample = used[np.linspace(0, len(used) - 1, min(len(used), _NUM_SAMPLED)).astype(np.int64)]
    center, components = _principal_components(_frequencies(rows, sample, _WHOLE, None))
    whole = np.array([0, _SIDE - 1, 0, _SIDE - 1], np.uint8)
    content = rows["content"][used]
    framed = used[(content != whole).any(axis=1)]
    surrounded = used[((content[:, ::2] > 0) & (content[:, 1::2] < _SIDE - 1)).all(axis=1)]
    # With a function, each picture has a box of its own.
    parts: list[tuple[Indices, Floats | _Inside, bool]] = [
        (used, _WHOLE, True),
        *((used, np.array([[crop, 1 - crop] * 2], np.float32), False) for crop in _CROPS),
        (framed, _inside_border, True),
        (surrounded, _inside_even_border, True),
    ]
    views = []
    for members, box, is_target in parts:
        straight = np.empty((len(members), _NUM_DIMENSIONS), np.float16)
        mirrored = np.empty_like(straight)
        boxes = np.empty((len(members), 4), np.float32) if callable(box) else box
        for start in range(0, len(members), _CHUNK):
            part = slice(start, start + _CHUNK)
            if callable(box):
                boxes[part], inner = box(rows, members[part])
                waves = _frequencies(rows, members[part], boxes[part], inner)
            else:
                waves = _frequencies(rows, members[part], box, None)
            straight[part] = _product(waves - center, components)
            mirrored[part] = _product(waves * _MIRROR_SIGNS - center, components)
        # The part at the left of a picture is at the right of its mirror image.
        turned = np.stack([1 - boxes[:, 1], 1 - boxes[:, 0], boxes[:, 2], boxes[:, 3]], axis=1)
        views += [
            View(members, boxes, False, is_target, straight),
            View(members, turned, True, False, mirrored),
        ]
    return views


def _inside_border(rows: Rows, pictures: Indices) -> tuple[Floats, Indices]:
    """Return what the borders of pictures surround.

    One or two pixels at the edge of a border show some of both. The border's share of them says
    where the edge is. Where the content has no straight edge, as with an object on white, it is
    what begins after the first pixel that differs.

    Returns:
        float32 [n, 4], left, right, top and bottom, as shares; int64 [n, 4], the first and last
        column and row without any of the border.
    """
    content = rows["content"][pictures].astype(np.int64)
    luminance = rows["luminance"][pictures].astype(np.float32)
    ends = np.empty((len(pictures), 4), np.float32)
    inner = np.empty((len(pictures), 4), np.int64)
    places = np.arange(_SIDE)
    for side in range(4):
        # lines: float32 [n, side, side], the outermost first
        lines = luminance if side >= 2 else luminance.transpose(0, 2, 1)
        first = content[:, side]
        if side % 2:
            lines, first = lines[:, ::-1], _SIDE - 1 - first
        low, high = content[:, 2 - side // 2 * 2], content[:, 3 - side // 2 * 2]
        is_across = (places >= low[:, np.newaxis] + 2) & (places <= high[:, np.newaxis] - 2)
        edge = np.take_along_axis(lines, (first[:, np.newaxis] + np.arange(3))[..., np.newaxis], 1)
        border, beyond = lines[:, :1, :1], edge[:, 2:]
        step = (border - beyond) * is_across[:, np.newaxis]
        shares = ((edge[:, :2] - beyond) * step).sum(axis=2)
        shares = np.clip(shares / (np.square(step).sum(axis=2) + 1), 0, 1)
        differs = (np.abs(edge[:, 1] - border[:, 0]) > _EDGE_STEP) & is_across
        is_straight = differs.sum(axis=1) >= _STRAIGHT * np.maximum(is_across.sum(axis=1), 1)
        depth = np.where(is_straight, first + shares.sum(axis=1), first + 1)
        pure = np.where(is_straight, first + 2, 0)
        # A side without border ends where the picture does.
        depth, pure = np.where(first > 0, depth, 0), np.where(first > 0, pure, 0)
        ends[:, side] = 1 - depth / _SIDE if side % 2 else depth / _SIDE
        inner[:, side] = _SIDE - 1 - pure if side % 2 else pure
    return ends, inner


def _inside_even_border(rows: Rows, pictures: Indices) -> tuple[Floats, Indices]:
    """Return what a border of the same width on all sides surrounds, as `_inside_border` does.

    What the border surrounds may begin with its colour on some sides, so that it seems wider there:
    the narrowest side counts.
    """
    ends, _ = _inside_border(rows, pictures)
    # pixels: float32 [n, 2], width and height
    pixels = np.stack([rows["width"][pictures], rows["height"][pictures]], axis=1)
    depths = np.stack([ends[:, ::2], 1 - ends[:, 1::2]], axis=2) * pixels[:, :, np.newaxis]
    shares = depths.min(axis=(1, 2))[:, np.newaxis] / np.maximum(pixels, 1)
    even = np.stack([shares, 1 - shares], axis=2).reshape(-1, 4).astype(np.float32)
    pure = np.ceil(shares * _SIDE).astype(np.int64)
    inner = np.stack([pure, _SIDE - 1 - pure], axis=2).reshape(-1, 4)
    return even, inner


def _principal_components(waves: Floats) -> tuple[Floats, Floats]:
    """Return the mean [frequencies] and the components [frequencies, dimensions] of a sample.

    The mirror image of each picture is a part of the sample. Components with much variance count
    less than they would, so that the many pictures of a light object on black do not look alike.
    """
    both = np.concatenate([waves, waves * _MIRROR_SIGNS]).astype(np.float64)
    center = both.mean(axis=0)
    both -= center
    covariance = sum(part.T @ part for part in np.split(both, range(128, len(both), 128)))
    variances, vectors = np.linalg.eigh(covariance / len(both))
    strongest = np.argsort(-variances, kind="stable")[:_NUM_DIMENSIONS]
    scales = np.maximum(variances[strongest], 1e-9) ** -0.25
    return center.astype(np.float32), (vectors[:, strongest] * scales).astype(np.float32)


def _frequencies(rows: Rows, pictures: Indices, boxes: Floats, inner: Indices | None) -> Floats:
    """Return the low frequencies of parts of pictures, of length 1: float32 [n, frequencies].

    Args:
        rows, pictures: The pictures.
        boxes: float32 [n, 4] or [1, 4], the parts.
        inner: int64 [n, 4], what is outside of these columns and rows counts as they do; None for
            no limit.
    """
    steps = np.arange(_NUM_FREQUENCIES)[:, np.newaxis]
    cosines = np.cos(np.pi * steps * (2 * np.arange(_SIDE) + 1) / (2 * _SIDE)).astype(np.float32)
    waves = np.empty((len(pictures), len(_FREQUENCIES)), np.float32)
    for start in range(0, len(pictures), _CHUNK):
        part = slice(start, start + _CHUNK)
        some = boxes[part] if len(boxes) > 1 else boxes
        across = cosines @ sampling(some[:, :2])[0]
        down = cosines @ sampling(some[:, 2:])[0]
        luminance = rows["luminance"][pictures[part]].astype(np.float32)
        if inner is not None:
            for axis, lower in ((2, 0), (1, 2)):
                limits = inner[part, lower : lower + 2, np.newaxis]
                places = np.clip(np.arange(_SIDE), limits[:, 0], limits[:, 1])
                luminance = np.take_along_axis(luminance, np.expand_dims(places, 3 - axis), axis)
        spectrum = down @ (luminance @ across.transpose(0, 2, 1))
        waves[part] = spectrum[:, _FREQUENCIES[:, 0], _FREQUENCIES[:, 1]]
    lengths = np.linalg.norm(waves, axis=1, keepdims=True)
    waves /= np.maximum(lengths, 1e-6)
    return waves


def find_candidates(views: list[View], num_pictures: int) -> NDArray[np.void]:
    """Return pairs of pictures with similar hashes, each once, with its most similar views."""
    targets = [each for each in views if each.is_target]
    members = np.concatenate([each.members for each in targets])
    vectors = np.concatenate([each.vectors for each in targets])
    numbers = np.repeat(
        [number for number, each in enumerate(views) if each.is_target],
        [len(each.members) for each in targets],
    )
    draw = np.random.default_rng(0)
    planes = draw.standard_normal((_NUM_DIMENSIONS, 64)).astype(np.float32)
    # signatures: uint64 [n], which rule out most pairs at little cost
    wanted = _signatures(vectors, planes)
    signatures = [_signatures(view.vectors, planes) for view in views]

    num_bits = int(np.clip(np.ceil(np.log2(num_pictures)) + 2, _MIN_BITS, _MAX_BITS))
    found = np.empty(0, PAIR)
    for _ in range(_NUM_TABLES):
        planes = draw.standard_normal((_NUM_DIMENSIONS, num_bits)).astype(np.float32)
        plain = np.concatenate(
            [_buckets(vectors[part], planes, 0)[:, 0] for part in _parts(len(vectors))]
        )
        order = np.argsort(plain, kind="stable")
        starts = np.zeros(2**num_bits + 1, np.int32)
        starts[1:] = np.cumsum(np.bincount(plain, minlength=2**num_bits))
        pairs, num_waiting = [found], 0
        for number, view in enumerate(views):
            for part in _parts(len(view.members)):
                buckets = _buckets(view.vectors[part], planes, _NUM_FLIPPED)
                for query, place in _collisions(buckets, starts):
                    query += part.start  # noqa: PLW2901
                    target = order[place]
                    likely = np.flatnonzero(
                        np.bitwise_count(signatures[number][query] ^ wanted[target])
                        <= _MAX_SIGNATURE_BITS
                    )
                    query, target = query[likely], target[likely]  # noqa: PLW2901
                    rows = np.empty(len(query), PAIR)
                    rows["query"], rows["target"] = view.members[query], members[target]
                    rows["views"][:, 0], rows["views"][:, 1] = number, numbers[target]
                    rows["distance"] = distances(view.vectors[query], vectors[target])
                    is_near = rows["distance"] <= _MAX_DISTANCE
                    pairs.append(rows[is_near & (rows["query"] != rows["target"])])
                    num_waiting += len(pairs[-1])
                    if num_waiting > max(_MAX_WAITING, len(pairs[0])):
                        pairs, num_waiting = [_nearest(np.concatenate(pairs), num_pictures)], 0
        found = _nearest(np.concatenate(pairs), num_pictures)
    return found


def _parts(number: int) -> Iterator[slice]:
    return (slice(start, start + _CHUNK_HASHED) for start in range(0, number, _CHUNK_HASHED))


def _signatures(vectors: NDArray[np.float16], planes: Floats) -> NDArray[np.uint64]:
    signatures = np.empty(len(vectors), np.uint64)
    for part in _parts(len(vectors)):
        signs = _product(vectors[part].astype(np.float32), planes) > 0
        signatures[part] = np.packbits(signs, axis=1).view(np.uint64)[:, 0]
    return signatures


def _product(rows: Floats, matrix: Floats) -> Floats:
    """Return the matrix product of many rows and a small matrix.

    In blocks: for large products, BLAS starts threads, which take much processor time to wait.
    """
    size, width = matrix.shape
    block = _MAX_PRODUCT // matrix.size
    whole = len(rows) // block * block
    result = np.empty((len(rows), width), np.float32)
    np.matmul(
        rows[:whole].reshape(-1, block, size),
        matrix,
        out=result[:whole].reshape(-1, block, width),
    )
    np.matmul(rows[whole:], matrix, out=result[whole:])
    return result


def distances(one: NDArray[np.float16], other: NDArray[np.float16]) -> Floats:
    """Return the distance of pairs of hash vectors, relative to the length of the second one."""
    wanted = other.astype(np.float32)
    lengths = np.maximum(np.linalg.norm(wanted, axis=1), 1e-6)
    distances: Floats = np.linalg.norm(one - wanted, axis=1) / lengths
    return distances


def _buckets(vectors: NDArray[np.float16], planes: Floats, num_flipped: int) -> NDArray[np.int32]:
    """Return the bucket of each vector, and those after flipping its least certain bits.

    Returns:
        int32 [n, 2 ** num_flipped]; the first one is without flipped bits.
    """
    bits = 1 << np.arange(planes.shape[1], dtype=np.int32)
    projected = _product(vectors.astype(np.float32), planes)
    buckets = np.empty((len(vectors), 2**num_flipped), np.int32)
    # Exact, because there are at most 24 bits.
    buckets[:, 0] = (projected > 0).astype(np.float32) @ bits.astype(np.float32)
    if num_flipped:
        unsure = bits[np.argpartition(np.abs(projected), num_flipped, axis=1)[:, :num_flipped]]
        for bit in range(num_flipped):
            flipped = buckets[:, : 2**bit] ^ unsure[:, bit : bit + 1]
            buckets[:, 2**bit : 2 ** (bit + 1)] = flipped
    return buckets


def _collisions(
    buckets: NDArray[np.int32], starts: NDArray[np.int32]
) -> Iterator[tuple[Indices, Indices]]:
    """Yield queries, and the places of targets in the same buckets.

    Args:
        buckets: int32 [queries, probes], buckets of the queries.
        starts: int32 [buckets + 1], the place of the first target of each bucket.
    """
    first = starts[buckets]
    counts = starts[1:][buckets] - first
    hits = np.flatnonzero(counts)
    queries = hits // buckets.shape[1]
    counts, first = counts.ravel()[hits], first.ravel()[hits]
    taken = np.minimum(counts, _MAX_PER_BUCKET)
    # Of a large bucket, every query takes another part.
    first = first + queries * 40_503 % (counts - taken + 1)
    for start in range(0, len(hits), _NUM_BUCKETS):
        part = slice(start, start + _NUM_BUCKETS)
        ends = np.cumsum(taken[part])
        within = np.arange(ends[-1]) - np.repeat(ends - taken[part], taken[part])
        yield np.repeat(queries[part], taken[part]), np.repeat(first[part], taken[part]) + within


def _nearest(pairs: NDArray[np.void], num_pictures: int) -> NDArray[np.void]:
    """Return each pair of pictures once, with the smallest distance, and few pairs per picture."""
    low = np.minimum(pairs["query"], pairs["target"])
    high = np.maximum(pairs["query"], pairs["target"])
    numbers = low * num_pictures + high
    pairs = pairs[np.lexsort((pairs["distance"], numbers))]
    numbers.sort()
    is_first = np.ones(len(numbers), np.bool_)
    is_first[1:] = numbers[1:] != numbers[:-1]
    pairs = pairs[is_first]
    is_kept = np.zeros(len(pairs), np.bool_)
    for side in ("query", "target"):
        order = np.lexsort((pairs["distance"], pairs[side]))
        places = np.arange(len(pairs)) - np.searchsorted(pairs[side][order], pairs[side][order])
        limits = np.where(pairs["distance"][order] <= _SURE_DISTANCE, MAX_COMPARED, _MAX_UNSURE)
        is_kept[order[places < limits]] = True
    return pairs[is_kept]
