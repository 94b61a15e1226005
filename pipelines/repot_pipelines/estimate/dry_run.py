"""Print what `repot submit --dry-run` reports: the run that would start, and its estimate."""

from rich.console import Console

from repot.errors import printable
from repot_pipelines.estimate.prices import Prices, Range
from repot_pipelines.estimate.run_cost import Estimate
from repot_pipelines.run_request import RunRequest


def print_dry_run(
    console: Console,
    request: RunRequest,
    estimate: Estimate,
    prices: Prices,
    *,
    pipeline_name: str,
    version_name: str,
    experiment: str,
) -> None:
    """Print the run and its estimate.

    Args:
        console: Where to print.
        request: The request that would be submitted.
        estimate: Its estimate.
        prices: The price table of the estimate.
        pipeline_name: Name of the pipeline on the server.
        version_name: Name of the pipeline version on the server.
        experiment: Name of the experiment.
    """
    values = request.values
    gpus = f"{values['accelerator_count']} x {values['accelerator_type']}"
    parameters = [f"{name}={value}" for name, value in sorted(request.given.items())]
    rows = {
        "pipeline": f"{pipeline_name}, version {version_name} ({request.path})",
        "experiment": experiment,
        "parameters": ", ".join(parameters),
        "pods": f"{estimate.pods.tasks} for tasks, {estimate.pods.drivers} short ones of KFP",
        "time": _time_text(estimate.hours),
        "GPU hours": f"{_range_text(estimate.accelerator_hours)} ({gpus})"
        if values["accelerator_count"]
        else "none",
        "cost": f"{_range_text(estimate.money)} {prices.currency}",
    }
    width = max(map(len, rows)) + 2
    lines = [f"{name:<{width}}{value}" for name, value in rows.items()]
    lines += ["assumptions", *(f"  - {sentence}" for sentence in estimate.assumptions)]
    lines.append("Nothing was uploaded or started.")
    for line in lines:
        console.print(printable(line), markup=False, highlight=False, soft_wrap=True)


def _time_text(hours: Range) -> str:
    low, high = hours
    if high < 3:
        return f"{60 * low:.0f} to {60 * high:.0f} minutes"
    return f"{_range_text(hours)} hours"


def _range_text(range_: Range) -> str:
    low, high = range_
    digits = 1 if low >= 1 else 2
    return f"{low:.{digits}f} to {high:.{digits}f}"
