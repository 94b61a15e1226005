from collections.abc import Callable
from typing import Any

import pytest
from click.testing import CliRunner

from repot import predictions
from repot_pipelines.commands.predict import predict_command


@pytest.mark.parametrize("output_format", ["csv", "jsonl"])
def test_escape_sequences_for_programs_stay(
    output_format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def predict_files(*_: object, write: Callable[[str], None], **__: Any) -> int:
        write("a\x1b[31m.jpg,cat")
        return 0

    monkeypatch.setattr(predictions, "predict_files", predict_files)

    result = CliRunner().invoke(predict_command, ["model", "a.jpg", "--format", output_format])

    assert result.output == "a\x1b[31m.jpg,cat\n"
