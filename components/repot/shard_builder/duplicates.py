"""Find near-copies among many pictures: resized, compressed, cropped, mirrored or with a border.

Three steps, each on far fewer pairs than the one before:

1.  Hash: the 42 lowest frequencies of a picture's cosine transform, as in pHash (C. Zauner,
    "Implementation and Benchmarking of Perceptual Image Hash Functions", 2010), of several views:
    the whole picture, two crops, what is inside a border, and the mirror image of each. Signs of
    single frequencies flip easily where a picture has little of a frequency, so that bits are signs
    of random projections (M. Charikar, "Similarity Estimation Techniques from Rounding Algorithms",
    2002) of the frequencies in their principal components.
2.  Candidates: pictures that agree in all bits of one of several tables, also after flipping the
    least certain bits (Q. Lv et al., "Multi-Probe LSH", 2007). The time grows with the number of
    pictures, not with its square: of a large group of alike pictures, each is compared with a few.
3.  Verification: the two miniatures are aligned by shift and scale (B. Lucas, T. Kanade, "An
    Iterative Image Registration Technique", 1981), and must then agree everywhere, in colour too.
    In a large group of alike pictures, each is compared with the first one of the group. Candidates
    that are both copies of it count as copies of each other without another comparison.

No library of perceptual hashes is used: they hash a picture file or an image object, but here only
the decoder's process has one, and every view of a million pictures must be hashed; on arrays of
miniatures that is a few matrix products.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from repot.picture_result import MINIATURE_SIDE

Floats = NDArray[np.float32]
Indices = NDArray[np.int64]

MIN_CONTRAST = 4.0
"""Pictures with a smaller standard deviation of grey levels, of 255, are not compared: any two of
them look alike."""

_SIDE = MINIATURE_SIDE
_WHOLE = np.array([[0, 1, 0, 1]], np.float32)
_CROPS = (0.025, 0.05)
"""What two of the views leave out on each side, as a share."""

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
_MAX_DISTANCE = 0.4
# Each picture is a candidate for about as many of the nearest.
_MAX_COMPARED = 16
# Only the nearest few are compared before large groups are known; then, at most as many times, the
# pictures of each group are compared with the first one of those that are not yet joined to one.
_NUM_CLOSEST, _NUM_FIRST = 4, 3
# Candidates that wait to be reduced to the nearest; 36 bytes each.
_MAX_WAITING = 4_000_000

# Limits of verification, found on drawings, cut-outs and photographs: correlation at half the
# resolution before and after the alignment, of all pixels, and of fine detail; the largest mean
# square difference of a part, in units of the variance; and of the colours of a part, of 255.
# A copy is as bright as the picture, in levels, and has its contrast, as a ratio's logarithm.
_MIN_START, _MIN_ROUGH, _MIN_CORRELATION, _MIN_DETAIL = 0.65, 0.85, 0.9, 0.6
_MAX_PART, _MAX_COLOUR = 0.6, 24.0
_MAX_BRIGHTNESS, _MAX_CONTRAST = 4.0, 0.25
_PART_SIDE = 8
# The outermost pixels, which may still contain some of a border, are not compared.
_MARGIN = 2
_MAX_MOVE = 0.12
_NUM_ROUGH_STEPS, _NUM_FINE_STEPS = 6, 3
_CHUNK, _CHUNK_HASHED = 512, 1 << 15
# OpenBLAS uses one thread up to this number of multiplications. Source: its interface/gemm.c.
_MAX_PRODUCT = 1 << 18


@dataclass(frozen=True, slots=True)
class _View:
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


_PAIR = np.dtype([("query", "<i8"), ("target", "<i8"), ("views", "<i2", (2,)), ("distance", "<f4")])


def find_near_copies(rows: NDArray[np.void], pictures: Indices) -> Indices:
    """Return the pairs of pictures that are near-copies of each other.

    Args:
        rows: Rows of `repot.shard_builder.appearances.APPEARANCE`; may be a memory map.
        pictures: Indices of the rows to compare, ascending. Of equal pictures, it should have one,
            because of many alike only some are compared.

    Returns:
        int64 [pairs, 2] of indices, the lower one first, sorted.
    """
    used = pictures[rows["contrast"][pictures] >= MIN_CONTRAST]
    if len(used) < 2:
        return np.empty((0, 2), np.int64)
    views = _make_views(rows, used)
    candidates = _find_candidates(views, len(rows))
    is_close = _ranks(candidates) < _NUM_CLOSEST
    found = _verify(rows, candidates[is_close], views)
    others = candidates[~is_close]
    with_first, firsts = _join_groups(rows, found, views)
    is_joined = (firsts[others["query"]] == firsts[others["target"]]) & (
        firsts[others["query"]] >= 0
    )
    verified = _verify(rows, others[~is_joined], views)
    found = np.concatenate([found, with_first, others[is_joined], verified])
    pairs = np.stack([found["query"], found["target"]], axis=1)
    return np.unique(np.sort(pairs, axis=1), axis=0)


def _verify(
    rows: NDArray[np.void], candidates: NDArray[np.void], views: list[_View]
) -> NDArray[np.void]:
    """Return the candidates that are copies."""
    return np.concatenate(
        [
            part[_are_copies(rows, part, views)]
            for part in np.split(candidates, range(_CHUNK, len(candidates), _CHUNK))
        ]
    )


def _ranks(pairs: NDArray[np.void]) -> Indices:
    """Return the place of each pair among those of one of its pictures, the nearest first.

    It is the smaller one of the places in the lists of both pictures, from 0.
    """
    ends = np.concatenate([pairs["query"], pairs["target"]])
    order = np.lexsort((np.tile(pairs["distance"], 2), ends))
    ends = ends[order]
    ranks = np.empty(len(ends), np.int64)
    ranks[order] = np.arange(len(ends)) - np.searchsorted(ends, ends)
    smaller: Indices = ranks.reshape(2, -1).min(axis=0)
    return smaller


def _join_groups(
    rows: NDArray[np.void], copies: NDArray[np.void], views: list[_View]
) -> tuple[NDArray[np.void], Indices]:
    """Compare the pictures of large groups of copies with the first one of their group.

    Returns:
        The pairs that are copies; int64 [rows], the first one that a picture is a copy of, or -1.
    """
    firsts = np.full(len(rows), -1)
    found = [np.empty(0, _PAIR)]
    links = np.stack([copies["query"], copies["target"]], axis=1)
    for _ in range(_NUM_FIRST):
        links = links[(firsts[links] < 0).all(axis=1)]
        groups = _groups(links, len(rows))
        members = np.flatnonzero(np.bincount(groups, minlength=len(rows))[groups] > _MAX_COMPARED)
        if not len(members):
            break
        pairs = _with_nearest_views(members, groups[members], views)
        verified = _verify(rows, pairs[members != groups[members]], views)
        firsts[verified["query"]] = verified["target"]
        # Also if nothing is a copy of it: it is not the first of a group again.
        firsts[groups[members]] = groups[members]
        found.append(verified)
    return np.concatenate(found), firsts


def _groups(links: Indices, number: int) -> Indices:
    """Return int64 [number]: for each picture, the first one that it is linked with in any way."""
    groups = np.arange(number)
    while True:
        linked = groups[links]
        lowest = linked.min(axis=1)
        if (linked == lowest[:, np.newaxis]).all():
            return groups
        for side in range(2):
            np.minimum.at(groups, linked[:, side], lowest)
        groups = groups[groups]


def _with_nearest_views(queries: Indices, targets: Indices, views: list[_View]) -> NDArray[np.void]:
    """Return pairs of pictures with their most similar views."""
    pairs = np.empty(len(queries), _PAIR)
    pairs["query"], pairs["target"], pairs["distance"] = queries, targets, np.inf
    for target_number, target in enumerate(views):
        if not target.is_target:
            continue
        has_target = np.isin(targets, target.members)
        for number, view in enumerate(views):
            chosen = np.flatnonzero(has_target & np.isin(queries, view.members))
            distances = _distances(
                view.vectors[np.searchsorted(view.members, queries[chosen])],
                target.vectors[np.searchsorted(target.members, targets[chosen])],
            )
            is_nearer = distances < pairs["distance"][chosen]
            nearer = chosen[is_nearer]
            pairs["distance"][nearer] = distances[is_nearer]
            pairs["views"][nearer] = number, target_number
    return pairs


def _make_views(rows: NDArray[np.void], used: Indices) -> list[_View]:
    """Return the hashed views of all pictures."""
    has_border, content = _content_boxes(rows["content"][used])
    parts = [
        (used, _WHOLE, True),
        *((used, np.array([[crop, 1 - crop] * 2], np.float32), False) for crop in _CROPS),
        (used[has_border], content[has_border], True),
    ]

    sample = used[np.linspace(0, len(used) - 1, min(len(used), _NUM_SAMPLED)).astype(np.int64)]
    center, components = _principal_components(_frequencies(rows, sample, _WHOLE))
    views = []
    for members, boxes, is_target in parts:
        straight = np.empty((len(members), _NUM_DIMENSIONS), np.float16)
        mirrored = np.empty_like(straight)
        for start in range(0, len(members), _CHUNK):
            part = slice(start, start + _CHUNK)
            some = boxes[part] if len(boxes) > 1 else boxes
            waves = _frequencies(rows, members[part], some)
            straight[part] = _product(waves - center, components)
            mirrored[part] = _product(waves * _MIRROR_SIGNS - center, components)
        # The part at the left of a picture is at the right of its mirror image.
        turned = np.stack([1 - boxes[:, 1], 1 - boxes[:, 0], boxes[:, 2], boxes[:, 3]], axis=1)
        views += [
            _View(members, boxes, False, is_target, straight),
            _View(members, turned, True, False, mirrored),
        ]
    return views


def _content_boxes(content: NDArray[np.uint8]) -> tuple[NDArray[np.bool_], Floats]:
    """Return which pictures have a border, and what is inside: float32 [n, 4], as shares.

    A pixel at the border is left out: it shows some of both.
    """
    ends = content.astype(np.float32)
    has_border = ends != np.array([0, _SIDE - 1, 0, _SIDE - 1])
    ends += has_border * np.array([1, -1, 1, -1], np.float32) + np.array([0, 1, 0, 1], np.float32)
    return has_border.any(axis=1), (ends / _SIDE).astype(np.float32)


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


def _frequencies(rows: NDArray[np.void], pictures: Indices, boxes: Floats) -> Floats:
    """Return the low frequencies of parts of pictures, of length 1: float32 [n, frequencies]."""
    steps = np.arange(_NUM_FREQUENCIES)[:, np.newaxis]
    cosines = np.cos(np.pi * steps * (2 * np.arange(_SIDE) + 1) / (2 * _SIDE)).astype(np.float32)
    waves = np.empty((len(pictures), len(_FREQUENCIES)), np.float32)
    for start in range(0, len(pictures), _CHUNK):
        part = slice(start, start + _CHUNK)
        some = boxes[part] if len(boxes) > 1 else boxes
        across = cosines @ _sampling(some[:, :2])[0]
        down = cosines @ _sampling(some[:, 2:])[0]
        luminance = rows["luminance"][pictures[part]].astype(np.float32)
        spectrum = down @ (luminance @ across.transpose(0, 2, 1))
        waves[part] = spectrum[:, _FREQUENCIES[:, 0], _FREQUENCIES[:, 1]]
    lengths = np.linalg.norm(waves, axis=1, keepdims=True)
    waves /= np.maximum(lengths, 1e-6)
    return waves


def _sampling(ranges: Floats, side: int = _SIDE) -> tuple[Floats, NDArray[np.bool_]]:
    """Return what samples parts of lines of pixels at as many points, by linear interpolation.

    Args:
        ranges: float32 [n, 2], first and last position, as shares of the line.
        side: Number of pixels in a line.

    Returns:
        float32 [n, side, side], points times pixels; bool [n, side], whether a point is inside.
    """
    steps = (np.arange(side, dtype=np.float32) + 0.5) / side
    positions = (ranges[:, :1] + (ranges[:, 1:] - ranges[:, :1]) * steps) * side - 0.5
    clipped = np.clip(positions, 0, side - 1)[..., np.newaxis]
    weights = np.clip(1 - np.abs(clipped - np.arange(side, dtype=np.float32)), 0, 1)
    return weights.astype(np.float32, copy=False), (positions > -0.75) & (positions < side - 0.25)


def _find_candidates(views: list[_View], num_pictures: int) -> NDArray[np.void]:
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
    found = np.empty(0, _PAIR)
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
                    rows = np.empty(len(query), _PAIR)
                    rows["query"], rows["target"] = view.members[query], members[target]
                    rows["views"][:, 0], rows["views"][:, 1] = number, numbers[target]
                    rows["distance"] = _distances(view.vectors[query], vectors[target])
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


def _distances(one: NDArray[np.float16], other: NDArray[np.float16]) -> Floats:
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
    for start in range(0, len(hits), _CHUNK_HASHED):
        part = slice(start, start + _CHUNK_HASHED)
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
        is_kept[order[places < _MAX_COMPARED]] = True
    return pairs[is_kept]


def _are_copies(
    rows: NDArray[np.void], pairs: NDArray[np.void], views: list[_View]
) -> NDArray[np.bool_]:
    """Return which pairs show the same, after aligning their miniatures."""
    first, boxes = _miniatures(rows, pairs["query"], pairs["views"][:, 0], views)
    second, other_boxes = _miniatures(rows, pairs["target"], pairs["views"][:, 1], views)
    likely = np.arange(len(pairs))

    def keep(chosen: NDArray[np.bool_]) -> None:
        nonlocal first, second, boxes, other_boxes, likely
        first, second, likely = first[chosen], second[chosen], likely[chosen]
        boxes, other_boxes = boxes[chosen], other_boxes[chosen]

    for num_steps, limit in ((0, _MIN_START), (_NUM_ROUGH_STEPS, _MIN_ROUGH)):
        one, other = _halve(first), _halve(second)
        boxes = _align(one, other, boxes, other_boxes, num_steps)
        keep(_compare(one, other, boxes, other_boxes).correlation >= limit)
    boxes = _align(first, second, boxes, other_boxes, _NUM_FINE_STEPS)
    keep(_agree(_compare(first, second, boxes, other_boxes)))
    keep(_colours_agree(rows, pairs[likely], views, boxes, other_boxes))
    result = np.zeros(len(pairs), np.bool_)
    result[likely] = True
    return result


def _miniatures(
    rows: NDArray[np.void], pictures: Indices, numbers: NDArray[np.int16], views: list[_View]
) -> tuple[Floats, Floats]:
    """Return luminance [n, side, side], mirrored where the view is, and the boxes of the views."""
    luminance = rows["luminance"][pictures].astype(np.float32)
    boxes = np.empty((len(pictures), 4), np.float32)
    for number, view in enumerate(views):
        chosen = np.flatnonzero(numbers == number)
        if view.is_mirrored:
            luminance[chosen] = luminance[chosen][:, :, ::-1]
        places = np.searchsorted(view.members, pictures[chosen])
        boxes[chosen] = view.boxes[places] if len(view.boxes) > 1 else view.boxes
    return luminance, boxes


def _halve(luminance: Floats) -> Floats:
    side = luminance.shape[1] // 2
    halves: Floats = luminance.reshape(-1, side, 2, side, 2).mean(axis=(2, 4), dtype=np.float32)
    return halves


@dataclass(frozen=True, slots=True)
class _Compared:
    """Two pictures at the same points: mean 0 and variance 1 where both are; 0 elsewhere.

    Attributes:
        first, second: float32 [n, side, side].
        num_pixels: float32 [n], the number of points where both are.
        means: float32 [2, n], mean luminance there of the first and of the second pictures.
        contrasts: float32 [2, n], standard deviation there.
    """

    first: Floats
    second: Floats
    num_pixels: Floats
    means: Floats
    contrasts: Floats

    @property
    def correlation(self) -> Floats:
        """Return the correlation of each pair of pictures."""
        sums: Floats = (self.first * self.second).sum(axis=(1, 2))
        return sums / self.num_pixels


def _compare(first: Floats, second: Floats, boxes: Floats, second_boxes: Floats) -> _Compared:
    one, is_inside = _sample(first, boxes)
    other, _ = _sample(second, second_boxes)
    margin = max(1, _MARGIN * first.shape[1] // _SIDE)
    inside = np.zeros_like(one)
    window = (slice(None), slice(margin, -margin), slice(margin, -margin))
    inside[window] = is_inside[window]
    num_pixels: Floats = np.maximum(inside.sum(axis=(1, 2), dtype=np.float32), 1)
    one, mean, contrast = _standardise(one, inside, num_pixels)
    other, other_mean, other_contrast = _standardise(other, inside, num_pixels)
    means, contrasts = np.stack([mean, other_mean]), np.stack([contrast, other_contrast])
    return _Compared(one, other, num_pixels, means, contrasts)


def _sample(luminance: Floats, boxes: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    side = luminance.shape[1]
    across, is_across = _sampling(boxes[:, :2], side)
    down, is_down = _sampling(boxes[:, 2:], side)
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


def _align(
    first: Floats, second: Floats, boxes: Floats, second_boxes: Floats, num_steps: int
) -> Floats:
    """Return the boxes of the first pictures that show the same as the second ones' boxes."""
    side = first.shape[1]
    steps = (np.arange(side, dtype=np.float32) + 0.5) / side
    start = boxes
    for _ in range(num_steps if len(boxes) else 0):
        both = _compare(first, second, boxes, second_boxes)
        down, across = np.gradient(both.first, axis=(1, 2))
        sizes = boxes[:, 1::2] - boxes[:, ::2]
        across *= side / sizes[:, 0][:, np.newaxis, np.newaxis]
        down *= side / sizes[:, 1][:, np.newaxis, np.newaxis]
        inside = both.second != 0
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
        slopes = (slopes * inside[..., np.newaxis]).reshape(len(first), -1, 4)
        missing = (both.second - both.first).reshape(len(first), -1, 1)
        squares = slopes.transpose(0, 2, 1) @ slopes
        damping = 1e-3 * np.trace(squares, axis1=1, axis2=2) / 4 + 1e-3
        squares += damping[:, np.newaxis, np.newaxis] * np.eye(4, dtype=np.float32)
        moves = np.linalg.solve(squares, slopes.transpose(0, 2, 1) @ missing)[..., 0]
        boxes = np.clip(boxes + np.clip(moves, -0.05, 0.05), start - _MAX_MOVE, start + _MAX_MOVE)
    return boxes


def _agree(both: _Compared) -> NDArray[np.bool_]:
    """Return which pictures agree as a whole, in brightness, in detail and in every part."""
    first, second = _detail(both.first), _detail(both.second)
    products = (first * second).sum(axis=(1, 2))
    energies = np.square(first).sum(axis=(1, 2)) * np.square(second).sum(axis=(1, 2))
    detail = products / np.sqrt(energies + 1e-6)
    part = _box_sums(np.square(both.first - both.second), _PART_SIDE).max(axis=(1, 2))
    part /= _PART_SIDE**2
    contrast = np.abs(np.log(both.contrasts[0] / both.contrasts[1]))
    is_same: NDArray[np.bool_] = (
        (both.correlation >= _MIN_CORRELATION)
        & (detail >= _MIN_DETAIL)
        & (part <= _MAX_PART)
        & (np.abs(both.means[0] - both.means[1]) <= _MAX_BRIGHTNESS)
        & (contrast <= _MAX_CONTRAST)
    )
    return is_same


def _detail(picture: Floats) -> Floats:
    """Return a picture without what its surroundings of 3 x 3 pixels have in common."""
    detail = np.zeros_like(picture)
    detail[:, 1:-1, 1:-1] = picture[:, 1:-1, 1:-1] - _box_sums(picture, 3) / 9
    inside: NDArray[np.bool_] = picture != 0
    return detail * inside


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
    rows: NDArray[np.void],
    pairs: NDArray[np.void],
    views: list[_View],
    boxes: Floats,
    second_boxes: Floats,
) -> NDArray[np.bool_]:
    """Return which pairs have the same colours in every part."""
    largest = np.zeros(len(pairs), np.float32)
    mirrored = np.array([view.is_mirrored for view in views])[pairs["views"][:, 0]]
    for band in range(2):
        first = rows["chroma"][pairs["query"], band].astype(np.float32)
        first[mirrored] = first[mirrored][:, :, ::-1]
        second = rows["chroma"][pairs["target"], band].astype(np.float32)
        one, other = _sample(first, boxes)[0], _sample(second, second_boxes)[0]
        inner = np.abs(one - other)[:, 1:-1, 1:-1]
        largest = np.maximum(largest, inner.max(axis=(1, 2)))
    return largest <= _MAX_COLOUR
