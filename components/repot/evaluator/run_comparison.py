"""Compare two runs: picture by picture, and setting by setting, for `repot runs compare`."""

from dataclasses import dataclass

from repot import storage
from repot.errors import UsageError
from repot.evaluator.catalog import RunSummary, show_run
from repot.evaluator.outcomes import read_outcomes
from repot.json_record import JsonRecord
from repot.layout import EVALUATION_FOLDER, PREDICTIONS_NAME
from repot.metrics import Interval, mcnemar_p, paired_difference
from repot.training_record import TrainingRecord


@dataclass(frozen=True, kw_only=True, slots=True)
class RunComparison(JsonRecord):
    """Two evaluated runs on the pictures that both were scored on.

    Attributes:
        first, second: The runs.
        num_pictures: Pictures that both were scored on, under the same label.
        only_first, only_second: Those that only one of them gets right.
        difference: precision@1 of the second minus that of the first on these pictures.
        interval: Its 95 % interval.
        p_value: Exact two-sided McNemar p-value of "both are equally good"; one comparison only.
        settings: What differs between the trainings, as far as they finished: name, and both values
            as text; dataset, checkpoint and packages, and training settings.
    """

    first: RunSummary
    second: RunSummary
    num_pictures: int
    only_first: int
    only_second: int
    difference: float
    interval: Interval
    p_value: float
    settings: dict[str, tuple[str, str]]


def compare_runs(storage_uri: str, first: str, second: str) -> RunComparison:
    """Compare two runs picture by picture.

    Raises:
        UsageError: One of them does not exist or was not evaluated, or no picture was scored by
            both.
    """
    details = [show_run(storage_uri, run) for run in (first, second)]
    right = []
    for each in details:
        if each.evaluation is None:
            raise UsageError(
                f"A run must be evaluated to be compared; {each.summary.run} is "
                f"{each.summary.state}. Run the pipeline again to finish it."
            )
        rows = read_outcomes(storage.join(each.uri, EVALUATION_FOLDER, PREDICTIONS_NAME))
        right.append({(row.digest, row.label): row.correct for row in rows})
    common = right[0].keys() & right[1].keys()
    if not common:
        raise UsageError(
            f"Two runs must be scored on some of the same pictures to be compared; {first} and "
            f"{second} have none in common. Compare runs on the same pictures."
        )
    only_first = sum(right[0][key] and not right[1][key] for key in common)
    only_second = sum(right[1][key] and not right[0][key] for key in common)
    difference = paired_difference(only_first, only_second, len(common))
    settings = [_describe_training(each.training) for each in details]
    return RunComparison(
        first=details[0].summary,
        second=details[1].summary,
        num_pictures=len(common),
        only_first=only_first,
        only_second=only_second,
        difference=difference.value,
        interval=difference.interval,
        p_value=mcnemar_p(only_first, only_second),
        settings={
            name: (str(settings[0].get(name, "")), str(settings[1].get(name, "")))
            for name in sorted({*settings[0], *settings[1]})
            if settings[0].get(name) != settings[1].get(name)
        },
    )


def _describe_training(training: TrainingRecord | None) -> dict[str, object]:
    """Return everything that may differ between two trainings, by name."""
    if training is None:
        return {}
    pictures = ", ".join(f"{count:,} {split}" for split, count in training.num_examples.items())
    return {
        "dataset": f"{training.dataset_id} ({pictures}; {len(training.labels):,} labels)",
        "checkpoint": training.checkpoint_id,
        **training.versions,
        **training.settings.to_json(),
    }
