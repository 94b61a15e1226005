"""model_card.md: what to know about a version before using it, in Markdown.

The sections follow Mitchell et al., "Model cards for model reporting", FAT* 2019.
"""

import re
from collections.abc import Sequence

from repot.errors import printable
from repot.evaluator.export_record import ExportRecord
from repot.evaluator.report import templates
from repot.evaluator.report.data import ReportData
from repot.evaluator.report.tables import export_rows, label_rows, training_rows
from repot.pages import environment
from repot.serving_client import ACCEPTED_FILES

_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>#|~])")


def render_model_card(
    data: ReportData, *, model_name: str, version: str, exports: Sequence[ExportRecord] = ()
) -> str:
    """Return the model card.

    Args:
        data: The report's data.
        model_name: The model.
        version: The version.
        exports: Its exports, the rejected ones included.
    """
    template = environment(templates.__name__).get_template("model_card.md.j2")
    return template.render(
        model_name=model_name,
        version=version,
        evaluation=data.evaluation,
        dataset=data.dataset,
        training_rows=training_rows(data.training) if data.training else [],
        label_rows=label_rows(data.evaluation, data.dataset),
        worse_slices=[each for each in data.slices.slices if each.is_worse] if data.slices else [],
        accepted_files=ACCEPTED_FILES,
        export_rows=export_rows(exports),
        escape=escape_markdown,
    )


def escape_markdown(text: object) -> str:
    """Return text on one line, escaped so that Markdown shows it, with its control characters."""
    return _MARKDOWN.sub(r"\\\1", " ".join(printable(str(text)).split()))
