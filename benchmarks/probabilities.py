"""Measure calibration, coverage of prediction sets, and the score of unlike pictures.

    make probabilities
    .venv/bin/python -m benchmarks.probabilities [--sets FOLDER] [--cache FOLDER] [--splits 200]
        [--all-candidates] [--large]

Every set is a folder of label folders. Without --sets, the seven sets of `benchmarks/quality.py`
are made from packages. Each split draws a fifth of every label's pictures at random, as the default
of `validation_fraction`; recipe auto trains on the others, and the drawn ones are scored once. The
splits are divided among the sets. Features are computed once per picture and kept in --cache; a
split then takes less than a CPU second. Of auto's candidates, only the first one is tried, which it
chooses unless another one is clearly better; --all-candidates takes four times as long.

--large takes four larger sets, with up to 300 pictures per label; it trains on the same share of
each label, 500 pictures together, and scores all others, about a thousand or more, so that chance
alone makes less of the calibration error. The features take ten minutes of processor time, once.

It prints, per set, means over splits:

- The expected calibration error (Guo et al. 2017, ten bins of equal width) without and with the
  temperature, and its floor: what a perfectly calibrated model with the same probabilities would
  show, because few pictures alone make the figure large; a table at the end has it by the number
  of scored pictures. Two estimates without that bias follow:
  the same error of the pictures of all splits together, and the debiased root mean square error of
  Kumar et al. 2019, "Verified uncertainty calibration", section 4.2 (ten bins of equal size; its
  square is averaged over splits), which is larger than the mean absolute error by definition. The
  same pictures are drawn in several splits, so both still vary by chance: a perfectly calibrated
  model would show at most "perfect, 95 %" in 19 of 20 such measurements.
- Coverage and mean size of the prediction sets that the model ships (LAC), with the share of empty
  ones, and of two other kinds made from the same predictions out of fold: APS (Romano et al. 2020)
  and RAPS (Angelopoulos et al. 2021, with lambda .02 beyond two labels).
- For models of drawings and photographs: the area under the ROC curve of `unlike` for pictures of
  the other kind against the drawn ones of the set itself, and the share of both that is flagged.
"""

import argparse
import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks import quality

HELD_OUT_SHARE = 0.2
NUM_TRAIN_LARGE = 500
NUM_BINS = 10
NUM_DRAWS = 200
CHANCE_SIZES = (20, 40, 100, 200, 400, 1000, 3000, 10_000)
FIRST_CANDIDATE = "three views, several depths"
DRAWINGS = ("clipart", "emoji", "things")
PHOTOGRAPHS = ("food",)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sets", type=Path, help="a folder of sets; default: from packages")
    parser.add_argument("--cache", type=Path, default=Path("quality-cache"))
    parser.add_argument("--splits", type=int, default=200, help="over all sets")
    parser.add_argument("--all-candidates", action="store_true")
    parser.add_argument("--large", action="store_true", help="four larger sets")
    arguments = parser.parse_args()
    candidate = "auto" if arguments.all_candidates else FIRST_CANDIDATE
    arguments.cache.mkdir(parents=True, exist_ok=True)
    folder = arguments.sets or quality.make_sets(arguments.cache, is_large=arguments.large)
    sets = [quality.read_set(path) for path in sorted(folder.iterdir()) if path.is_dir()]
    tables = {each.name: quality.read_features(each, arguments.cache) for each in sets}
    num_splits = -(-arguments.splits // len(sets))
    started = time.process_time()
    results: dict[str, dict[str, Any]] = {}
    for pictures in sets:
        others = PHOTOGRAPHS if pictures.name in DRAWINGS else DRAWINGS
        is_kind = pictures.name in DRAWINGS + PHOTOGRAPHS
        other_tables = [tables[name] for name in others if name in tables] if is_kind else []
        with quality.only_candidate(candidate):
            splits = [
                measure(
                    pictures,
                    tables[pictures.name],
                    other_tables,
                    seed=seed,
                    num_train=NUM_TRAIN_LARGE if arguments.large else None,
                )
                for seed in range(num_splits)
            ]
        results[pictures.name] = summarise(splits)
        print(pictures.name, "done", file=sys.stderr, flush=True)
    print_tables(results, num_splits)
    seconds = (time.process_time() - started) / (num_splits * len(sets))
    print(f"\n{num_splits} splits per set, {seconds:.1f} CPU seconds per split, without features")


def measure(
    pictures: quality.PictureSet,
    tables: Mapping[str, Any],
    other_tables: Sequence[Mapping[str, Any]],
    *,
    seed: int,
    num_train: int | None,
) -> dict[str, Any]:
    """Train on one split and return what was measured on the drawn pictures.

    Args:
        pictures: The set.
        tables: Its features.
        other_tables: Features of sets of another kind.
        seed: Which split.
        num_train: Training pictures; None for all but HELD_OUT_SHARE.
    """
    from repot.metrics import prediction_sets
    from repot.settings import TrainingSettings
    from repot.trainer.auto.heads import softmax
    from repot.trainer.auto.selection import select_head
    from repot.trainer.auto.train_auto import calibrate_selected

    rng = np.random.default_rng([seed, 13])
    is_drawn = np.zeros(len(pictures.classes), np.bool_)
    share = HELD_OUT_SHARE if num_train is None else 1 - num_train / len(is_drawn)
    for each in range(pictures.num_classes):
        rows = rng.permutation(np.flatnonzero(pictures.classes == each))
        is_drawn[rows[: max(1, round(share * len(rows)))]] = True
    train, held_out = np.flatnonzero(~is_drawn), np.flatnonzero(is_drawn)
    features = features_of(pictures, tables, train)
    selected = select_head(features, balance="auto", num_validation=len(held_out), fine_tuning="")
    calibration, unlike = calibrate_selected(features, selected, TrainingSettings())
    new = features_of(pictures, tables, held_out)
    rows = new.rows(selected.candidate, slice(None))
    logits, classes = selected.head.logits(rows), new.classes
    probabilities = softmax(logits / selected.record.temperature)
    is_in_set = prediction_sets(probabilities, calibration.set_threshold)
    found: dict[str, Any] = {
        "rows": held_out,
        "before": confidences(softmax(logits), classes),
        "after": confidences(probabilities, classes),
        "covered": is_in_set[np.arange(len(classes)), classes].mean(),
        "size": is_in_set.sum(axis=1).mean(),
        "empty": (is_in_set.sum(axis=1) == 0).mean(),
    }
    out_of_fold = softmax(selected.logits / selected.record.temperature)
    for name, penalty in (("aps", 0.0), ("raps", 0.02)):
        own = cumulated(out_of_fold, penalty)
        own = own[np.arange(len(own)), features.classes[selected.scored]]
        rank = int(np.ceil((len(own) + 1) * calibration.coverage))
        threshold = np.sort(own)[rank - 1] if rank <= len(own) else np.inf
        is_inside = cumulated(probabilities, penalty) <= threshold
        found[name] = is_inside[np.arange(len(classes)), classes].mean()
        found[f"{name}_size"] = is_inside.sum(axis=1).mean()
    scores = unlike.scores(rows)
    found["alarms"] = (scores > 1).mean()
    if other_tables:
        other_scores = [
            unlike.scores(
                features_of(None, each, np.arange(len(each["central"]))).rows(
                    selected.candidate, slice(None)
                )
            )
            for each in other_tables
        ]
        found["auroc"] = np.mean([auroc(scores, each) for each in other_scores])
        found["flagged"] = np.mean([(each > 1).mean() for each in other_scores])
    return found


def features_of(pictures: quality.PictureSet | None, tables: Mapping[str, Any], rows: Any) -> Any:
    """Return the TrainingFeatures of some rows; without a set, their classes are zero."""
    from repot.trainer.auto.selection import VIEWS, TrainingFeatures

    return TrainingFeatures(
        tables={view: tables[view][rows] for view in VIEWS},
        sizes=tuple(int(size) for size in tables["sizes"]),
        classes=pictures.classes[rows] if pictures else np.zeros(len(rows), np.int64),
        digests=np.array([pictures.digests[row] for row in rows], "S32") if pictures else None,
        num_classes=pictures.num_classes if pictures else 1,
    )


def confidences(probabilities: Any, classes: Any) -> Any:
    """Return float [2, n]: probability of the predicted label, and whether it is right."""
    is_right = probabilities.argmax(axis=1) == classes
    return np.stack([probabilities.max(axis=1), is_right])


def plain_error(pair: Any) -> float:
    """Return the expected calibration error that the report shows."""
    from repot.metrics import calibration, calibration_error

    return calibration_error(calibration(pair[0], pair[1] > 0, NUM_BINS)) or 0.0


def debiased_square(pair: Any) -> float:
    """Return the debiased mean square error of Kumar et al. 2019; it may be negative."""
    order = np.argsort(pair[0], kind="stable")
    total = 0.0
    for part in np.array_split(pair[:, order], NUM_BINS, axis=1):
        probability, right, size = part[0].mean(), part[1].mean(), part.shape[1]
        total += size * ((probability - right) ** 2 - right * (1 - right) / (size - 1))
    return float(total / len(order))


def error_by_chance(probabilities: Any) -> float:
    """Return the mean error if every probability were exactly right."""
    from repot.metrics import calibration, calibration_error_by_chance

    bins = calibration(probabilities, np.zeros(len(probabilities), np.bool_), NUM_BINS)
    return calibration_error_by_chance(bins) or 0.0


def errors_by_chance(probabilities: Any) -> list[float]:
    """Return it for samples of these probabilities, of each of CHANCE_SIZES."""
    rng = np.random.default_rng(0)
    return [
        float(np.mean([error_by_chance(rng.choice(probabilities, size)) for _ in range(50)]))
        for size in CHANCE_SIZES
    ]


def cumulated(probabilities: Any, penalty: float) -> Any:
    """Return the score of every label: the sum of probabilities down to it, with RAPS' penalty."""
    order = np.argsort(-probabilities, axis=1, kind="stable")
    sums = np.take_along_axis(probabilities, order, axis=1).cumsum(axis=1)
    sums += penalty * np.maximum(0, np.arange(1, probabilities.shape[1] + 1) - 2)
    scores = np.empty_like(probabilities)
    np.put_along_axis(scores, order, sums, axis=1)
    return scores


def auroc(ordinary: Any, other: Any) -> float:
    """Return the chance that a picture of the other kind has the higher score."""
    below = np.searchsorted(np.sort(ordinary), other, side="left")
    return float(below.mean() / len(ordinary))


def errors_of_all(pairs: Sequence[Any]) -> tuple[float, float]:
    """Return the plain error of the pictures of all splits together, and the debiased one."""
    square = float(np.mean([debiased_square(pair) for pair in pairs]))
    return plain_error(np.concatenate(pairs, axis=1)), max(square, 0.0) ** 0.5


def perfect_errors(splits: Sequence[Mapping[str, Any]], rng: np.random.Generator) -> Any:
    """Return `errors_of_all` once, as if every probability were exactly right.

    A picture has the same luck in every split, as a difficult picture has.
    """
    luck = rng.random(1 + max(int(split["rows"].max()) for split in splits))
    confidences = [split["after"][0] for split in splits]
    return errors_of_all(
        [
            np.stack([probabilities, luck[split["rows"]] < probabilities])
            for split, probabilities in zip(splits, confidences, strict=True)
        ]
    )


def summarise(splits: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the means over splits, and the errors of all of them together."""
    values: dict[str, list[float]] = defaultdict(list)
    for split in splits:
        for name, value in split.items():
            if name not in ("rows", "before", "after"):
                values[name].append(float(value))
    summary: dict[str, Any] = {name: float(np.mean(each)) for name, each in values.items()}
    for name in ("before", "after"):
        pairs = [split[name] for split in splits]
        summary[name] = float(np.mean([plain_error(pair) for pair in pairs]))
        summary[f"{name}_pooled"], summary[f"{name}_debiased"] = errors_of_all(pairs)
    confidences = [split["after"][0] for split in splits]
    summary["floor"] = float(np.mean([error_by_chance(each) for each in confidences]))
    perfect = [perfect_errors(splits, np.random.default_rng(seed)) for seed in range(NUM_DRAWS)]
    for name, errors in zip(("after_pooled", "after_debiased"), np.transpose(perfect), strict=True):
        summary[f"{name}_perfect"] = float(np.quantile(errors, 0.95))
    summary["by_chance"] = errors_by_chance(np.concatenate(confidences))
    summary["right"] = float(np.mean([split["after"][1].mean() for split in splits]))
    summary["pictures"] = float(np.mean([split["after"].shape[1] for split in splits]))
    return summary


_CALIBRATION = {
    "pictures": "scored per split",
    "right": "precision@1",
    "before": "ECE before",
    "after": "ECE after",
    "floor": "floor",
    "before_pooled": "all splits before",
    "after_pooled": "after",
    "after_pooled_perfect": "perfect, 95 %",
    "before_debiased": "debiased before",
    "after_debiased": "after ",
    "after_debiased_perfect": "perfect, 95 % ",
}
_SETS = {
    "covered": "coverage",
    "size": "labels per set",
    "empty": "empty",
    "aps": "APS",
    "aps_size": "labels",
    "raps": "RAPS",
    "raps_size": "labels ",
}
_UNLIKE = {
    "auroc": "AUROC, other kind",
    "flagged": "other kind flagged",
    "alarms": "own kind flagged",
}


def print_tables(results: Mapping[str, Mapping[str, Any]], num_splits: int) -> None:
    """Print three Markdown tables."""
    for columns in (_CALIBRATION, _SETS, _UNLIKE):
        print("\n| set |", " | ".join(name.strip() for name in columns.values()), "|")
        print("|---" * (len(columns) + 1) + "|")
        for name, row in [*results.items(), ("mean", mean_of(list(results.values())))]:
            cells = [format_cell(key, row.get(key)) for key in columns]
            print(f"| {name} |", " | ".join(cells), "|")
    print("\n| perfectly calibrated |", " | ".join(f"{size} scored" for size in CHANCE_SIZES), "|")
    print("|---" * (len(CHANCE_SIZES) + 1) + "|")
    for name, row in results.items():
        print(f"| {name} |", " | ".join(f"{error:.3f}" for error in row["by_chance"]), "|")


def format_cell(key: str, value: float | None) -> str:
    """Return a cell of a table."""
    if value is None:
        return "-"
    return f"{value:.0f}" if key == "pictures" else f"{value:.3f}"


def mean_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the mean over sets of every column."""
    keys = {key for row in rows for key in row if key != "by_chance"}
    return {key: float(np.mean([row[key] for row in rows if key in row])) for key in keys}


if __name__ == "__main__":
    main()
