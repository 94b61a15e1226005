"""The price table: cost of CPU, memory and GPUs per hour, and the training speed of each GPU."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from repot.errors import UsageError
from repot.user_files import read_user_file

DEFAULT_PRICES_PATH = Path(__file__).parent / "prices.yaml"

Range = tuple[float, float]
"""(low, high), both inclusive."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GpuPrice:
    """Price and speed of one GPU model.

    Attributes:
        hour: Price of one GPU for one hour.
        pictures_per_second: Training speed of one GPU: Inception-v3 at 299 x 299, all layers.
    """

    hour: float
    pictures_per_second: Range


@dataclass(frozen=True, kw_only=True, slots=True)
class Prices:
    """A price table.

    Attributes:
        currency: Currency of every price.
        source: Where the prices come from.
        cpu_hour: Price of one CPU for one hour.
        memory_gib_hour: Price of one GiB of memory for one hour.
        accelerators: GPU models by the value of the node label that selects them.
    """

    currency: str
    source: str
    cpu_hour: float
    memory_gib_hour: float
    accelerators: dict[str, GpuPrice]


def read_prices(path: Path = DEFAULT_PRICES_PATH) -> Prices:
    """Read a price table.

    Raises:
        UsageError: The file is unreadable or not a valid price table.
    """
    try:
        table = yaml.safe_load(read_user_file(path).decode())
        return Prices(
            currency=str(table["currency"]),
            source=str(table["source"]),
            cpu_hour=_price(table["cpu_hour"]),
            memory_gib_hour=_price(table["memory_gib_hour"]),
            accelerators={
                str(name): _gpu_price(row) for name, row in table["accelerators"].items()
            },
        )
    except OSError as err:
        raise UsageError(f"The price table {path} must be readable; {err.strerror}.") from err
    except (UnicodeDecodeError, RecursionError, yaml.YAMLError) as err:
        raise UsageError(f"The price table {path} must be readable YAML; {err}") from err
    except (AttributeError, KeyError, TypeError, ValueError) as err:
        reason = f"{err} is missing" if isinstance(err, KeyError) else str(err)
        raise UsageError(
            f"The price table {path} must have the format of {DEFAULT_PRICES_PATH}; {reason}."
        ) from err


def _gpu_price(row: dict[str, Any]) -> GpuPrice:
    low, high = (_price(number) for number in row["pictures_per_second"])
    if not 0 < low <= high:
        raise ValueError(
            f"pictures_per_second must be [low, high] with low above 0; "
            f"got {row['pictures_per_second']}"
        )
    return GpuPrice(hour=_price(row["hour"]), pictures_per_second=(low, high))


def _price(value: Any) -> float:
    number = float(value)
    if not 0 <= number < float("inf"):
        raise ValueError(f"a price must be 0 or more; got {value}")
    return number
