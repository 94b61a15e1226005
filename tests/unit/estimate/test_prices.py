from pathlib import Path

import pytest

from repot.errors import UsageError
from repot_pipelines.estimate.prices import DEFAULT_PRICES_PATH, read_prices


def test_read_prices_reads_another_file(tmp_path: Path) -> None:
    path = tmp_path / "prices.yaml"
    path.write_text(DEFAULT_PRICES_PATH.read_text().replace("currency: USD", "currency: EUR"))

    assert read_prices(path).currency == "EUR"


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("cpu_hour: 0.0316", "", "'cpu_hour' is missing"),
        ("hour: 0.35", "hour: -1", "a price must be 0 or more"),
        ("[60, 250]", "[250, 60]", "pictures_per_second must be"),
        ("[60, 250]", "60", "must have the format of"),
        ("currency: USD", "currency: [", "must be readable YAML"),
    ],
)
def test_read_prices_reports_what_is_wrong(tmp_path: Path, old: str, new: str, reason: str) -> None:
    path = tmp_path / "prices.yaml"
    path.write_text(DEFAULT_PRICES_PATH.read_text().replace(old, new))

    with pytest.raises(UsageError, match=r"prices\.yaml") as caught:
        read_prices(path)

    assert reason in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", "- 1"])
def test_read_prices_rejects_other_yaml(tmp_path: Path, text: str) -> None:
    path = tmp_path / "prices.yaml"
    path.write_text(text)

    with pytest.raises(UsageError, match="must have the format of"):
        read_prices(path)


def test_endless_price_table_is_rejected() -> None:
    with pytest.raises(UsageError, match=r"/dev/zero must .* at most 1,048,576 bytes; it has more"):
        read_prices(Path("/dev/zero"))
