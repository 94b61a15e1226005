"""What `repot run` prints before and after: where things are, and what came out."""

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from repot.layout import MODEL_FOLDER, REPORT_NAME
from repot_pipelines.run import RunOutcome


def print_inputs(console: Console, arguments: dict[str, Any], output_path: Path) -> None:
    """Print where the pictures come from and where everything goes."""
    _print_rows(
        console,
        {
            "pictures": arguments["pictures_uri"],
            "storage": arguments["storage_uri"],
            "output": str(output_path),
            "model": f"{arguments['backbone']}, recipe {arguments['recipe']}",
        },
    )


def print_outcome(console: Console, outcome: RunOutcome) -> None:
    """Print the scores with their 95 % intervals, the verdict and the paths to look at."""
    metrics = outcome.metrics
    low, high = metrics["precision_at_1_interval"]
    _print_rows(
        console,
        {
            "precision@1": f"{metrics['precision_at_1']:.3f}  (95 % interval {low:.3f} to {high:.3f}, "
            f"{metrics['num_examples']} validation pictures)",
            f"recall@{metrics['recall_k']}": f"{metrics['recall_at_5']:.3f}",
            "verdict": f"{outcome.verdict['verdict']}: {' '.join(outcome.verdict['reasons'])}",
            "model": str(outcome.output_path / MODEL_FOLDER),
            "report": str(outcome.output_path / REPORT_NAME),
        },
    )


def _print_rows(console: Console, rows: dict[str, str]) -> None:
    width = max(map(len, rows)) + 2
    for name, value in rows.items():
        console.print(f"[bold]{name:<{width}}[/bold]{escape(value)}", highlight=False, soft_wrap=True)
