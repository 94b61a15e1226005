"""What is printed of a run: before it (what would run, and for how much) and after it (what came out)."""

from rich.console import Console

from repot_pipelines.estimate.estimate import Estimate
from repot_pipelines.estimate.prices import Prices, Range
from repot_pipelines.kfp_server.errors import ServerError
from repot_pipelines.kfp_server.registry import version_name
from repot_pipelines.kfp_server.runs import CANCELED, SUCCEEDED, StartOptions
from repot_pipelines.run_request import Request
from repot_pipelines.watch.follow import RunEnd
from repot_pipelines.watch.gate_result import PROMOTED, REJECTED, UNCHANGED, UNKNOWN, GateVerdict

_HEADLINES = {
    PROMOTED: "Promoted.",
    REJECTED: "Not promoted.",
    UNCHANGED: "Unchanged: the model is the champion already.",
    UNKNOWN: "Not promoted. Why is not known: the gate's log is gone, or the server does not hand logs out. "
    "The gate's report in the UI has it.",
}


def print_end(console: Console, end: RunEnd) -> None:
    """Print what the gate of a run that succeeded said.

    Raises:
        ServerError: The run did not succeed; the message names the tasks that failed and the end of their logs.
    """
    if end.state != SUCCEEDED:
        raise ServerError(_failure(end))
    _print(console, "The run succeeded.")
    if end.verdict is not None:
        _print_verdict(console, end.verdict)


def print_plan(
    console: Console, request: Request, options: StartOptions, estimate: Estimate, prices: Prices
) -> None:
    """Print what would be uploaded and started, and what it would take."""
    count = request.values["accelerator_count"]
    rows = {
        "pipeline": f"{options.pipeline_name or request.pipeline_name}, version "
        f"{options.version_name or version_name(request.path)} ({request.path})",
        "experiment": options.experiment,
        "parameters": ", ".join(f"{name}={value}" for name, value in sorted(request.given.items())),
        "pods": f"{estimate.pods.working} that work, {estimate.pods.drivers} short ones of KFP's own",
        "time": _time(estimate.hours),
        "GPU hours": f"{_range(estimate.accelerator_hours)} ({count} x {request.values['accelerator_type']})"
        if int(count)
        else "none",
        "money": f"{_range(estimate.money)} {prices.currency}",
    }
    width = max(map(len, rows)) + 2
    for name, value in rows.items():
        _print(console, f"{name:<{width}}{value}")
    _print(console, "assuming")
    for sentence in estimate.assumptions:
        _print(console, f"  - {sentence}")
    _print(console, "Nothing was uploaded or started.")


def _print_verdict(console: Console, verdict: GateVerdict) -> None:
    _print(console, verdict.headline or _HEADLINES.get(verdict.verdict, verdict.verdict))
    for reason in verdict.reasons:
        _print(console, f"  {reason}")
    if verdict.report_uri:
        _print(console, f"report  {verdict.report_uri}")


def _failure(end: RunEnd) -> str:
    if end.state == CANCELED:
        return f"The run {end.run_id} was terminated before its end."
    if not end.failures:
        return f"The run {end.run_id} failed, and the server does not say in which task. Look at it in the UI."
    lines = [f"The run {end.run_id} failed."]
    for failure in end.failures:
        lines.append(
            f"{failure.title}: {'' if failure.words else 'failed; its log is not to be had here, see the UI.'}"
        )
        lines += [f"  {line}" for line in failure.words.splitlines()]
    return "\n".join(line.rstrip() for line in lines)


def _time(hours: Range) -> str:
    low, high = hours
    return f"{60 * low:.0f} to {60 * high:.0f} minutes" if high < 3 else f"{_range(hours)} hours"


def _range(range_: Range) -> str:
    low, high = range_
    digits = 1 if low >= 1 else 2
    return f"{low:.{digits}f} to {high:.{digits}f}"


def _print(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
