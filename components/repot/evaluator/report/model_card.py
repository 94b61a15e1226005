"""model_card.md: what a person should know before using a version, as Markdown.

The headings follow Mitchell et al., "Model cards for model reporting", FAT* 2019.
"""

import re
from collections.abc import Mapping
from typing import Any

from repot.evaluator.report.page import label_rows
from repot.evaluator.report.templates import environment
from repot.evaluator.report.training_summary import training_facts

_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>#|~])")


def render_model_card(data: Mapping[str, Any], *, model_name: str, version: str) -> str:
    """Return the model card.

    Args:
        data: What report_data.json holds.
        model_name: The model.
        version: The version.
    """
    return (
        environment()
        .get_template("model_card.md.j2")
        .render(
            model_name=model_name,
            version=version,
            metrics=data["metrics"],
            data=data["data"],
            facts=training_facts(data["training"]),
            rows=label_rows(data["metrics"], data["data"]),
            plain=escape_markdown,
        )
    )


def escape_markdown(text: object) -> str:
    """Return text that Markdown shows as it is, on one line."""
    return _MARKDOWN.sub(r"\\\1", " ".join(str(text).split()))
