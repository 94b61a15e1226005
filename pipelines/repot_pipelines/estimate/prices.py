"""The table of prices: what an hour of a CPU, of memory and of each GPU costs, and how fast each GPU trains."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from repot.errors import UsageError

SHIPPED = Path(__file__).parent / "prices.yaml"

Range = tuple[float, float]
"""(low, high), both possible."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Accelerator:
    """One model of GPU.

    Attributes:
        hour: Price of one for an hour.
        images_per_second: Inception-v3 at 299 x 299, the whole network trained on one.
    """

    hour: float
    images_per_second: Range


@dataclass(frozen=True, kw_only=True, slots=True)
class Prices:
    """A table of prices.

    Attributes:
        currency: Of every price.
        source: Where they are from.
        cpu_hour: One CPU for an hour.
        memory_gib_hour: One GiB of memory for an hour.
        accelerators: GPUs by the value of the node label that selects them.
    """

    currency: str
    source: str
    cpu_hour: float
    memory_gib_hour: float
    accelerators: dict[str, Accelerator]


def read_prices(path: Path = SHIPPED) -> Prices:
    """Read a table of prices.

    Raises:
        UsageError: The file cannot be read, or is not such a table.
    """
    try:
        facts = yaml.safe_load(path.read_text(encoding="utf-8"))
        return Prices(
            currency=str(facts["currency"]),
            source=str(facts["source"]),
            cpu_hour=_price(facts["cpu_hour"]),
            memory_gib_hour=_price(facts["memory_gib_hour"]),
            accelerators={
                str(name): _accelerator(row) for name, row in facts["accelerators"].items()
            },
        )
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as err:
        raise UsageError(f"The table of prices {path} must be readable YAML; {err}") from err
    except (AttributeError, KeyError, TypeError, ValueError) as err:
        reason = f"it has no {err}" if isinstance(err, KeyError) else str(err)
        raise UsageError(f"The table of prices {path} must look like {SHIPPED}; {reason}.") from err


def _accelerator(row: dict[str, Any]) -> Accelerator:
    low, high = (_price(number) for number in row["images_per_second"])
    if not 0 < low <= high:
        raise ValueError(
            f"images_per_second must be [low, high], low above 0; got {row['images_per_second']}"
        )
    return Accelerator(hour=_price(row["hour"]), images_per_second=(low, high))


def _price(value: Any) -> float:
    number = float(value)
    if not 0 <= number < float("inf"):
        raise ValueError(f"a price must be 0 or more; got {value}")
    return number
