"""`repot run`: the whole pipeline on this machine."""

import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from repot import storage
from repot.errors import EXIT_GATE_REJECTED, UsageError, printable
from repot.layout import DATA_PAGE_NAME, MODEL_FOLDER, REPORT_NAME, SUSPECTS_TABLE_NAME
from repot.settings import ParameterValues
from repot_pipelines.cluster_rules import settings_problems
from repot_pipelines.commands.help_sections import SectionedCommand
from repot_pipelines.commands.option_types import NameChoice
from repot_pipelines.commands.options import (
    debug_option,
    local_storage_option,
    pipeline_options,
    preset_option,
)
from repot_pipelines.defaults import OUTPUT_FOLDER
from repot_pipelines.presets import PRESETS

if TYPE_CHECKING:
    from rich.console import Console

    from repot.evaluation_record import EvaluationRecord, SplitScores
    from repot_pipelines.local.run import RunOutcome


_PROGRAM = "repot"
"""Name of the console script."""


@click.command("run", cls=SectionedCommand)
@click.argument("pictures", required=False)
@click.option(
    "--sample", is_flag=True, help="Use the built-in sample of 132 drawings instead of PICTURES."
)
@preset_option("laptop")
@local_storage_option
@click.option(
    "--output",
    "output_path",
    type=click.Path(file_okay=False, path_type=Path),
    default=OUTPUT_FOLDER,
    show_default=True,
    help="Folder for report.html, metrics.json and model/.",
)
@pipeline_options
@click.option(
    "--runner",
    type=NameChoice(["subprocess", "docker"]),
    default="subprocess",
    show_default=True,
    help="What runs the tasks: this Python, or the container images.",
)
@click.option("--cpu-image", help="Image of every task except Train, for --runner docker.")
@click.option("--trainer-image", help="Image of the trainer, for --runner docker.")
@click.option(
    "--require-promotion",
    is_flag=True,
    help=f"Exit with {EXIT_GATE_REJECTED} if the gate rejects the model, or is undecided.",
)
@click.option("--logs", "show_logs", is_flag=True, help="Show what the tasks log.")
@click.option("--verbose", is_flag=True, help="Show everything that Kubeflow and the tasks print.")
@debug_option
def run_command(
    *,
    pictures: str | None,
    sample: bool,
    preset: str,
    storage_uri: str,
    output_path: Path,
    parameters: ParameterValues,
    runner: str,
    cpu_image: str | None,
    trainer_image: str | None,
    require_promotion: bool,
    show_logs: bool,
    verbose: bool,
) -> int:
    """Turn PICTURES into a fine-tuned, evaluated classifier and a report.

    PICTURES is a folder (or a gs:// or s3:// prefix) of label/picture folders, or one that holds
    train/label/... and validation/label/..., or a zip or tar file, a manifest (CSV or JSON Lines),
    an import file of another system, or TFRecord shards; see docs/inputs.md.

    The command runs the same compiled pipeline as a cluster. Run it again with the same
    --storage-uri to resume; if nothing changed, nothing is computed again.
    """
    from rich.console import Console

    from repot.evaluator.verdict import exit_code_of
    from repot_pipelines.local.run import SAMPLE_FOLDER, run_pipeline

    if sample == (pictures is not None):
        raise UsageError("Give either PICTURES, such as a folder of label folders, or --sample.")
    images = {"cpu_image": cpu_image, "trainer_image": trainer_image}
    arguments = {
        **PRESETS[preset],
        **parameters,
        **{name: image for name, image in images.items() if image is not None},
        "pictures_uri": str(SAMPLE_FOLDER) if sample else storage.normalise(str(pictures)),
        "storage_uri": storage.normalise(storage_uri),
    }
    _check_arguments(arguments)
    console = Console()
    output_path = output_path.absolute()
    _print_inputs(console, arguments, output_path)
    outcome = run_pipeline(
        arguments,
        output_path=output_path,
        console=console,
        verbose=verbose,
        show_logs=show_logs,
        runner=runner,
    )
    _print_outcome(console, outcome)
    return exit_code_of(outcome.verdict.decision if require_promotion else None)


def _check_arguments(arguments: ParameterValues) -> None:
    """Check what can be checked without reading pictures, before any process is started.

    Raises:
        UsageError: Lists everything that is wrong.
        UnicodeEncodeError: A text cannot be passed on to the tasks.
    """
    for value in arguments.values():
        if isinstance(value, str):
            value.encode()
    if settings_problems(arguments):
        from repot.planner.preflight import check_parameters

        # Plan's own check, which also reports missing pictures and an unusable storage.
        check_parameters(arguments)


def _print_inputs(console: "Console", arguments: ParameterValues, output_path: Path) -> None:
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


def _print_outcome(console: "Console", outcome: "RunOutcome") -> None:
    """Print the verdict, the scores with their 95 % intervals, and the paths of the results."""
    evaluation, verdict = outcome.evaluation, outcome.verdict
    low, high = evaluation.precision_at_1_interval
    _print_rows(
        console,
        {
            "verdict": verdict.headline,
            "reasons": "\n".join(verdict.reasons),
            "precision@1": f"{evaluation.precision_at_1:.3f}  (95 % interval {low:.3f} to "
            f"{high:.3f}, {evaluation.num_examples} validation pictures)",
            **_recall_row(evaluation),
            **_test_row(evaluation.test),
            **_balanced_row(evaluation.scores),
            "model": f"{outcome.output_path / MODEL_FOLDER}"
            f"{'' if outcome.is_promoted else '  (this version, which is not in production)'}",
            "report": str(outcome.output_path / REPORT_NAME),
            "data": str(outcome.output_path / DATA_PAGE_NAME),
            "suspects": str(outcome.output_path / SUSPECTS_TABLE_NAME),
            **_kept_row(outcome.kept_path),
            "next": f"{_program()} predict {shlex.quote(_short_path(outcome.output_path))} "
            "PICTURES...",
        },
    )


def _program() -> str:
    """Return how this program can be called: by its name only if the shell finds it."""
    path, found = Path(sys.argv[0]).absolute(), shutil.which(_PROGRAM)
    is_found = found is not None and Path(found).resolve() == path.resolve()
    return _PROGRAM if is_found or path.name != _PROGRAM else shlex.quote(_short_path(path))


def _short_path(path: Path) -> str:
    """Return a path relative to the current folder, if it is in it."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _recall_row(evaluation: "EvaluationRecord") -> dict[str, str]:
    """Return the row of recall@k; no row if all labels are among the k most probable ones."""
    k = evaluation.recall_k
    is_certain = k >= len(evaluation.labels)
    return {} if is_certain else {f"recall@{k}": f"{evaluation.recall_at_5:.3f}"}


def _balanced_row(scores: "SplitScores") -> dict[str, str]:
    low, high = scores.macro_recall_interval or (0.0, 1.0)
    return {
        "per label": f"mean recall {scores.macro_recall:.3f}  (95 % interval {low:.3f} to "
        f"{high:.3f}), mean F1 {scores.macro_f1:.3f}"
    }


def _kept_row(path: Path | None) -> dict[str, str]:
    return {"kept": f"{path}  (new labels that this run was not given)"} if path else {}


def _test_row(test: "SplitScores | None") -> dict[str, str]:
    if test is None:
        return {}
    low, high = test.precision_at_1_interval
    return {
        "test": f"{test.precision_at_1:.3f}  (95 % interval {low:.3f} to {high:.3f}, "
        f"{test.num_examples} test pictures)"
    }


def _print_rows(console: "Console", rows: dict[str, str]) -> None:
    from rich.markup import escape

    width = max(map(len, rows)) + 2
    for name, value in rows.items():
        # Each further line of a value below its first one.
        text = f"\n{'':{width}}".join(escape(printable(line)) for line in value.split("\n"))
        console.print(f"[bold]{name:<{width}}[/bold]{text}", highlight=False, soft_wrap=True)
