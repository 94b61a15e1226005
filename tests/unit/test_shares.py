import pytest

from repot.dataset_plan import Share, format_item, parse_item, share_of
from repot.errors import UsageError

DATASET_ID = "0123456789abcdef"


def test_item_comes_back_as_it_went_in() -> None:
    share = Share(dataset_id=DATASET_ID, share_index=3, num_shares=64)
    assert format_item(share) == f"{DATASET_ID}:3/64"
    assert parse_item(format_item(share)) == share


@pytest.mark.parametrize(
    "item",
    [
        "",
        DATASET_ID,
        f"{DATASET_ID}:1/1",
        f"{DATASET_ID}:0/0",
        f"{DATASET_ID}:-1/2",
        f"{DATASET_ID}:0/2 ",
        "abc:0/2",
    ],
)
def test_anything_else_is_no_item(item: str) -> None:
    with pytest.raises(UsageError, match="work item"):
        parse_item(item)


@pytest.mark.parametrize("num_shares", [1, 2, 3, 7, 9])
def test_shares_are_even_and_whole(num_shares: int) -> None:
    names = [f"train-{index:05}-of-00007" for index in range(7)]
    shares = [share_of(names, index, num_shares) for index in range(num_shares)]
    assert sorted(name for share in shares for name in share) == names
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
