import pytest

from repot.errors import join_names


@pytest.mark.parametrize(
    ("names", "text"),
    [([], ""), (["a"], "a"), (["a", "b"], "a, b"), (["a", "b", "c"], "a, b and 1 more")],
)
def test_only_the_first_names_are_shown(names: list[str], text: str) -> None:
    assert join_names(names, limit=2) == text
