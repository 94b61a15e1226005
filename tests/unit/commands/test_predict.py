from collections.abc import Callable
from typing import Any

import pytest
from click.testing import CliRunner

from repot import predictions
from repot.predictions import PredictionCounts
from repot_pipelines.commands.predict import predict_command
from tests.integration.kfp_api.command_line import run_repot


@pytest.mark.parametrize("output_format", ["csv", "jsonl"])
def test_escape_sequences_for_programs_stay(
    output_format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def predict_files(*_: object, write: Callable[[str], None], **__: Any) -> PredictionCounts:
        write("a\x1b[31m.jpg,cat")
        return PredictionCounts(num_pictures=1, num_problems=0, num_earlier=0)

    monkeypatch.setattr(predictions, "predict_files", predict_files)

    result = CliRunner().invoke(predict_command, ["model", "a.jpg", "--format", output_format])

    assert result.output == "a\x1b[31m.jpg,cat\n"


def test_interrupted_command_ends_without_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(predictions, "predict_files", interrupt)

    done = run_repot("predict", "model", "x.jpg")

    assert done.exit_code == 130
    assert done.errors.strip().startswith("Interrupted. Finished work is kept")
