"""The fast check of the code: the whole pipeline on the built-in sample, on this machine, in a scratch folder."""

import tempfile
from pathlib import Path

from rich.console import Console

from repot.errors import RepotError
from repot_pipelines.local.run import SAMPLE_FOLDER, run_pipeline
from repot_pipelines.presets import PRESETS

_NUM_LOG_LINES = 30


class SampleCheckError(RepotError):
    """The pipeline does not run on the sample: the code is broken, or this machine is not fit for it."""


def check_sample(console: Console) -> str:
    """Run the pipeline on the sample and return its score in one line; nothing is left behind.

    Args:
        console: Where progress is drawn.

    Raises:
        SampleCheckError: A task failed; the end of the log is in the message where no task said why.
    """
    with tempfile.TemporaryDirectory(prefix="repot-ci-") as scratch:
        output_path = Path(scratch) / "output"
        arguments = {
            **PRESETS["laptop"],
            "pictures_uri": str(SAMPLE_FOLDER),
            "storage_uri": str(Path(scratch) / "storage"),
        }
        try:
            outcome = run_pipeline(
                arguments, output_path=output_path, console=console, verbose=False
            )
        except RepotError as err:
            raise SampleCheckError(_message(str(err), output_path / "pipeline.log")) from err
    metrics = outcome.metrics
    return f"precision@1 {metrics['precision_at_1']:.3f} on {metrics['num_examples']} pictures"


def _message(reason: str, log_path: Path) -> str:
    """Return what failed; the log goes away with the scratch folder, so its end comes along where it is needed."""
    lines = [
        f"The check on the sample pictures failed, and nothing was sent to the cluster. {reason}"
    ]
    if str(log_path) in reason and log_path.is_file():
        lines += log_path.read_text(encoding="utf-8", errors="replace").splitlines()[
            -_NUM_LOG_LINES:
        ]
    return "\n".join(lines)
