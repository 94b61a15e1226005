"""Find near-copies among many pictures: resized, compressed, cropped, mirrored or with a border.

Candidates are pairs with similar hashes (`repot.shard_builder.candidates`); copies are those whose
miniatures can be aligned (`repot.shard_builder.alignment`). In a large group of alike pictures,
each is compared with the first one of the group. Candidates that are both copies of it count as
copies of each other without another comparison.
"""

import numpy as np
from numpy.typing import NDArray

from repot.shard_builder.alignment import Indices, Parts, are_copies
from repot.shard_builder.appearances import Rows
from repot.shard_builder.candidates import (
    MAX_COMPARED,
    PAIR,
    View,
    distances,
    find_candidates,
    make_views,
)

MIN_CONTRAST = 4.0
"""Pictures with a smaller standard deviation of grey levels, of 255, are not compared with each
other: any two of them look alike."""

MIN_COPY_CONTRAST = 2.8
"""The same of a copy: compression and resizing take contrast away."""

# Only the nearest few are compared before large groups are known; then, at most as many times, the
# pictures of each group are compared with the first one of those that are not yet joined to one.
_NUM_CLOSEST, _NUM_FIRST = 4, 3
_CHUNK = 512


def find_near_copies(rows: Rows, pictures: Indices) -> Indices:
    """Return the pairs of pictures that are near-copies of each other.

    Args:
        rows: What all pictures look like.
        pictures: Indices of the rows to compare, ascending. Of equal pictures, it should have one,
            because of many alike only some are compared.

    Returns:
        int64 [pairs, 2] of indices, the lower one first, sorted.
    """
    used = pictures[rows["contrast"][pictures] >= MIN_COPY_CONTRAST]
    if len(used) < 2:
        return np.empty((0, 2), np.int64)
    views = make_views(rows, used)
    candidates = find_candidates(views, len(rows))
    has_contrast = rows["contrast"] >= MIN_CONTRAST
    candidates = candidates[has_contrast[candidates["query"]] | has_contrast[candidates["target"]]]
    is_close = _ranks(candidates) < _NUM_CLOSEST
    found = _verify(rows, candidates[is_close], views)
    others = candidates[~is_close]
    with_first, firsts = _join_groups(rows, found, views)
    is_joined = (firsts[others["query"]] == firsts[others["target"]]) & (
        firsts[others["query"]] >= 0
    )
    verified = _verify(rows, others[~is_joined], views)
    found = np.concatenate([found, with_first, others[is_joined], verified])
    # int64 [2, pairs], the lower one first
    low, high = np.sort(np.stack([found["query"], found["target"]]), axis=0)
    order = np.lexsort((high, low))
    pairs = np.stack([low, high], axis=1)[order]
    is_first = np.ones(len(pairs), np.bool_)
    is_first[1:] = (pairs[1:] != pairs[:-1]).any(axis=1)
    return pairs[is_first]


def _verify(rows: Rows, candidates: NDArray[np.void], views: list[View]) -> NDArray[np.void]:
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
    rows: Rows, copies: NDArray[np.void], views: list[View]
) -> tuple[NDArray[np.void], Indices]:
    """Compare the pictures of large groups of copies with the first one of their group.

    Returns:
        The pairs that are copies; int64 [rows], the first one that a picture is a copy of, or -1.
    """
    firsts = np.full(len(rows), -1)
    found = [np.empty(0, PAIR)]
    links = np.stack([copies["query"], copies["target"]], axis=1)
    for _ in range(_NUM_FIRST):
        links = links[(firsts[links] < 0).all(axis=1)]
        groups = _groups(links, len(rows))
        members = np.flatnonzero(np.bincount(groups, minlength=len(rows))[groups] > MAX_COMPARED)
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


def _with_nearest_views(queries: Indices, targets: Indices, views: list[View]) -> NDArray[np.void]:
    """Return pairs of pictures with their most similar views."""
    pairs = np.empty(len(queries), PAIR)
    pairs["query"], pairs["target"], pairs["distance"] = queries, targets, np.inf
    for target_number, target in enumerate(views):
        if not target.is_target:
            continue
        has_target = np.isin(targets, target.members)
        for number, view in enumerate(views):
            chosen = np.flatnonzero(has_target & np.isin(queries, view.members))
            away = distances(
                view.vectors[np.searchsorted(view.members, queries[chosen])],
                target.vectors[np.searchsorted(target.members, targets[chosen])],
            )
            is_nearer = away < pairs["distance"][chosen]
            nearer = chosen[is_nearer]
            pairs["distance"][nearer] = away[is_nearer]
            pairs["views"][nearer] = number, target_number
    return pairs


def _are_copies(rows: Rows, pairs: NDArray[np.void], views: list[View]) -> NDArray[np.bool_]:
    """Return which pairs of pictures show the same."""
    first = _parts_of(pairs["query"], pairs["views"][:, 0], views)
    return are_copies(rows, first, _parts_of(pairs["target"], pairs["views"][:, 1], views))


def _parts_of(pictures: Indices, numbers: NDArray[np.int16], views: list[View]) -> Parts:
    """Return what the views of some numbers show of pictures."""
    boxes = np.empty((len(pictures), 4), np.float32)
    for number, view in enumerate(views):
        chosen = np.flatnonzero(numbers == number)
        places = np.searchsorted(view.members, pictures[chosen])
        boxes[chosen] = view.boxes[places] if len(view.boxes) > 1 else view.boxes
    is_mirrored = np.array([view.is_mirrored for view in views])[numbers]
    return Parts(pictures, boxes, is_mirrored)
