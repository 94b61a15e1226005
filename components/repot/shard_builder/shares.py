"""How shards are dealt to builder pods, and the string that tells a pod its part."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from repot.errors import UsageError

_ITEM = re.compile(r"([0-9a-f]{16}):(\d{1,5})/(\d{1,5})")


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """One pod's part of a data set: part `share_index` in [0, num_shares)."""

    dataset_id: str
    share_index: int
    num_shares: int


def format_item(share: Share) -> str:
    """Return the loop item `<dataset_id>:<share_index>/<num_shares>`."""
    return f"{share.dataset_id}:{share.share_index}/{share.num_shares}"


def parse_item(item: str) -> Share:
    """Return the share that a loop item names.

    Raises:
        UsageError: It is not a loop item.
    """
    match = _ITEM.fullmatch(item)
    if not match or not int(match[2]) < int(match[3]):
        raise UsageError(
            f"A work item must look like <dataset_id>:<share_index>/<num_shares>, the index below the number; "
            f"got item={item!r}. Take the items from `plan`."
        )
    return Share(dataset_id=match[1], share_index=int(match[2]), num_shares=int(match[3]))


def share_of(shard_names: Sequence[str], share_index: int, num_shares: int) -> list[str]:
    """Return the shards of one share, dealt round-robin (share_index in [0, num_shares))."""
    return list(shard_names[share_index::num_shares])
