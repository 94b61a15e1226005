"""Plant wrong labels in sets of pictures and count how many are found.

    make suspects
    .venv/bin/python -m benchmarks.suspects [--sets FOLDER] [--cache FOLDER] [--rate .05]
        [--seeds 3]

Every set is a folder of label folders. Without --sets, the seven sets of `benchmarks/quality.py`
are made from packages. A picture with an exact copy is counted once, and left out if its copies
have several labels. A seed gives a share of the pictures a wrong label, any other one alike.

It prints recall (planted wrong labels that are listed), precision (listed labels that are planted;
wrong labels that the packages have themselves count as false), how often the likely label of a hit
is the right one, and the precision@1 of recipe auto's cross-validation, which says how hard a set
is; for the features of recipe auto and for those of recipes head and fine_tune. The last rows are
the plain rule of confident learning on the same predictions: Northcutt et al. 2021, equations 1
and 2. Thresholds and priors were chosen on these seven sets, so expect less of others.

Features are computed once and kept in --cache; that takes most of the first run's time. A later run
takes two minutes of processor time.
"""

import argparse
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from benchmarks import quality


def main() -> None:
    """Print one row per set and kind of features."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sets", type=Path, help="a folder of sets; default: from packages")
    parser.add_argument("--cache", type=Path, default=Path("quality-cache"))
    parser.add_argument("--rate", type=float, default=0.05)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    arguments.cache.mkdir(parents=True, exist_ok=True)
    sets_folder = arguments.sets or quality.make_sets(arguments.cache)
    print("| set | pictures | labels | precision@1 | features | recall | precision | right label |")
    print("|---" * 8 + "|")
    totals: dict[str, list[tuple[float, ...]]] = defaultdict(list)
    seconds = []
    for folder in sorted(path for path in sets_folder.iterdir() if path.is_dir()):
        pictures = quality.read_set(folder)
        tables = quality.read_features(pictures, arguments.cache)
        rows = distinct_rows(pictures)
        scores: dict[str, list[tuple[float, ...]]] = defaultdict(list)
        for seed in range(arguments.seeds):
            started = time.process_time()
            measured = measure(pictures, tables, rows, rate=arguments.rate, seed=seed)
            seconds.append((time.process_time() - started) / len(measured))
            for kind, values in measured.items():
                scores[kind].append(values)
        for kind, rows_of_kind in scores.items():
            mean = tuple(float(value) for value in np.mean(rows_of_kind, axis=0))
            totals[kind].append(mean)
            print_row(folder.name, len(rows), pictures.num_classes, kind, mean)
    for kind, means in totals.items():
        print_row("mean", "", "", kind, tuple(float(value) for value in np.mean(means, axis=0)))
    print(f"\n{np.mean(seconds):.1f} CPU seconds per set, without features")


def print_row(name: str, num: Any, labels: Any, kind: str, values: tuple[float, ...]) -> None:
    """Print a row of the table."""
    recall, precision, right, accuracy = (f"{value:.2f}" for value in values)
    cells = (name, num, labels, accuracy, kind, recall, precision, right)
    print("|", " | ".join(map(str, cells)), "|", flush=True)


def distinct_rows(pictures: quality.PictureSet) -> Any:
    """Return one row per content, without those that have several labels."""
    labels = defaultdict(set)
    first: dict[bytes, int] = {}
    for row, digest in enumerate(pictures.digests):
        labels[digest].add(int(pictures.classes[row]))
        first.setdefault(digest, row)
    return np.array([row for digest, row in first.items() if len(labels[digest]) == 1])


def measure(
    pictures: quality.PictureSet, tables: Mapping[str, Any], rows: Any, *, rate: float, seed: int
) -> dict[str, tuple[float, ...]]:
    """Return recall, precision, share of right suggestions and precision@1, by features."""
    from repot.trainer import suspects
    from repot.trainer.auto.selection import VIEWS, TrainingFeatures

    rng = np.random.default_rng([seed, 12])
    true, num_labels = pictures.classes[rows], pictures.num_classes
    given = true.copy()
    wrong = rng.choice(len(rows), max(1, round(rate * len(rows))), replace=False)
    given[wrong] = (given[wrong] + rng.integers(1, num_labels, len(wrong))) % num_labels
    sizes = tuple(int(size) for size in tables["sizes"])
    planted = set(wrong.tolist())
    results: dict[str, tuple[float, ...]] = {}
    for kind, views, used_sizes in (("auto", VIEWS, sizes), ("head", VIEWS[:1], sizes[:1])):
        features = TrainingFeatures(
            tables={view: tables[view][rows][:, : sum(used_sizes)] for view in views},
            sizes=used_sizes,
            classes=given,
            digests=np.array([pictures.digests[row] for row in rows], "S32"),
            num_classes=num_labels,
        )
        with judging_logits() as seen:
            found = suspects.find_suspects(features)
        (logits,) = seen
        hits = [each for each in found.suspects if each.number in planted]
        right = np.mean([each.likely == true[each.number] for each in hits]) if hits else 0.0
        accuracy = float(np.mean(logits.argmax(axis=1) == true))
        recall, precision = len(hits) / len(planted), len(hits) / max(1, len(found.suspects))
        results[kind] = (recall, precision, float(right), accuracy)
        if kind == "auto":
            results["auto, plain rule"] = (*plain_rule(logits, given, true, planted), accuracy)
    return results


@contextmanager
def judging_logits() -> Iterator[list[Any]]:
    """Collect the logits that `find_suspects` judges by, so that they are computed once."""
    from repot.trainer import suspects

    seen, cross_validate = [], suspects._cross_validate

    def note(*arguments: Any) -> Any:
        found = cross_validate(*arguments)
        seen.append(found[0])
        return found

    with mock.patch.object(suspects, "_cross_validate", note):
        yield seen


def plain_rule(logits: Any, given: Any, true: Any, planted: set[int]) -> tuple[float, ...]:
    """Return recall, precision and share of right suggestions of plain confident learning."""
    from repot.trainer.auto.heads import fit_temperature, softmax

    probabilities = softmax(logits / fit_temperature(logits, given))
    num_labels = probabilities.shape[1]
    own = probabilities[np.arange(len(given)), given]
    thresholds = np.bincount(given, own, num_labels) / np.bincount(given, minlength=num_labels)
    confident = np.where(probabilities >= thresholds, probabilities, -1.0)
    likely = confident.argmax(axis=1)
    found = np.flatnonzero((confident.max(axis=1) >= 0) & (likely != given))
    hits = [row for row in found.tolist() if row in planted]
    right = float(np.mean([likely[row] == true[row] for row in hits])) if hits else 0.0
    return len(hits) / len(planted), len(hits) / max(1, len(found)), right


if __name__ == "__main__":
    main()
