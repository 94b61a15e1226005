"""Size and rendering time of the report from 2 to 1,000 labels; screenshots to look at.

    python benchmarks/report.py [--screenshots FOLDER]

Every picture of the report is there: the most mistakes, suspects and pictures of cells that an
evaluation keeps, of drawings of the sample. With --screenshots, Chromium renders every page at the
width of a phone and of a desktop, light and dark; that needs Playwright and Chromium.
"""

import argparse
import dataclasses
import random
import shutil
import time
from pathlib import Path

from repot.evaluation_record import ScoringTime
from repot.evaluator.comparison import judge
from repot.evaluator.floors import compare_labels
from repot.evaluator.outcomes import Outcome, ScoredPicture
from repot.evaluator.report.data import (
    ReportContext,
    ReportData,
    SuspectPicture,
    SuspectSummary,
    build_report_data,
    thumbnail,
)
from repot.evaluator.report.page import render_report
from repot.evaluator.scoring import MAX_MISTAKES, MAX_PER_PAIR
from repot.evaluator.slices import compare_slices
from repot.evaluator.summary import summarise
from repot.manifest import Manifest, Receipt
from repot.picture_decoder import PictureDecoder
from repot.picture_result import Picture
from repot.requested_run import RequestedRun
from repot.settings import DatasetSettings, GateSettings, TrainingSettings
from repot.training_record import EpochRecord, TrainingRecord

MAX_BYTES = 5_000_000
"""The bar of the worst case."""
NUM_LABELS = (2, 4, 30, 1000)
WIDTHS = (390, 1280)
SAMPLE = Path(__file__).parents[1] / "pipelines" / "repot_pipelines" / "sample" / "pictures"


def read_sample() -> list[bytes]:
    """Return the drawings of the sample as stored in shards."""
    paths = sorted(path for path in SAMPLE.rglob("*") if path.suffix in (".jpg", ".png"))[:60]
    with PictureDecoder() as decoder:
        results = [decoder.decode([(path.name, path.read_bytes())])[0] for path in paths]
    return [result.jpeg for result in results if isinstance(result, Picture)]


def make_outcomes(labels: list[str], error: float, seed: int) -> list[Outcome]:
    """Return outcomes of 4,000 pictures at least; neighbouring labels are confused most."""
    rng = random.Random(seed)
    outcomes = []
    for i in range(max(4000, 40 * len(labels))):
        number = i % len(labels)
        is_wrong = rng.random() < error * (1 + (number % 3))
        step = rng.choice((1, 1, 1, 2, 5)) if is_wrong else 0
        predicted = labels[(number + step) % len(labels)]
        probability = rng.uniform(0.4, 1.0)
        outcomes.append(
            Outcome(
                filename=f"folder with a long name/picture_{i:06d}_of_the_validation_split.jpg",
                digest=f"{i:032x}",
                label=labels[number],
                predicted=predicted,
                probability=probability,
                label_probability=probability if predicted == labels[number] else 0.1,
                label_rank=1 if predicted == labels[number] else 2,
            )
        )
    return outcomes


def make_data(labels: list[str], outcomes: list[Outcome], jpegs: list[bytes]) -> ReportData:
    """Return the data of a report with every kind of content."""
    rng = random.Random(1)
    evaluation = summarise(
        outcomes,
        labels,
        evaluation_id="e" * 16,
        dataset_id="d" * 16,
        training_id="t" * 16,
        subset="validation",
        excluded={},
    )
    pictures = [
        ScoredPicture(outcome=outcome, jpeg=jpegs[i % len(jpegs)])
        for i, outcome in enumerate(outcomes)
    ]
    wrong = [picture for picture in pictures if not picture.outcome.correct]
    by_pair: dict[tuple[str, str], list[ScoredPicture]] = {}
    for picture in pictures if len(labels) <= 12 else wrong:
        kept = by_pair.setdefault((picture.outcome.label, picture.outcome.predicted), [])
        if len(kept) < MAX_PER_PAIR:
            kept.append(picture)
    counts = dict.fromkeys(labels, 100)
    receipts = [
        Receipt(
            shard=f"{split}-00000-of-00001",
            split=split,
            num_records=100 * len(labels),
            size_bytes=1,
            crc32c="0" * 8,
            class_counts=counts,
        )
        for split in ("train", "validation")
    ]
    epoch = EpochRecord(
        phase="head",
        epoch=1,
        learning_rate=0.003,
        train_loss=1.0,
        train_precision_at_1=0.8,
        validation_loss=1.1,
        validation_precision_at_1=0.75,
        seconds=3.0,
    )
    data = build_report_data(
        evaluation,
        manifest=Manifest(
            dataset_id="d" * 16,
            pictures_uri="gs://bucket/pictures",
            labels=tuple(labels),
            settings=DatasetSettings(),
            shards=tuple(receipts),
            num_found=200 * len(labels),
            num_accepted=200 * len(labels),
        ),
        checks=None,
        mistakes=wrong[:MAX_MISTAKES],
        by_pair=by_pair,
        training=TrainingRecord(
            training_id="t" * 16,
            dataset_id="d" * 16,
            checkpoint_id="c" * 64 + "/efficientnet_lite0-imagenet",
            settings=TrainingSettings(),
            image_size=224,
            labels=tuple(labels),
            num_examples={"train": 100 * len(labels), "validation": len(outcomes)},
            num_parameters=3_400_000,
            epochs=8,
            seconds=312.0,
            train_examples_per_second=310.0,
            last_epoch=epoch,
            versions={"tensorflow": "2.21.0", "python": "3.11.7"},
        ),
        run_uri="",
        suspects=SuspectSummary(
            num_suspects=60,
            num_expected=48.0,
            num_judged=len(outcomes),
            num_examples=len(outcomes),
            table_uri="gs://bucket/repot/runs/tttttttttttttttt/evaluation/suspects.csv",
            pictures=tuple(
                SuspectPicture(
                    path=f"folder/picture_{i}.jpg",
                    split="train",
                    given_label=labels[i % len(labels)],
                    likely_label=labels[(i + 1) % len(labels)],
                    given_probability=0.01,
                    likely_probability=0.97,
                    confidence=0.9,
                    thumbnail=thumbnail(jpegs[i % len(jpegs)]),
                )
                for i in range(24)
            ),
        ),
        slices=compare_slices(
            outcomes,
            {
                "folder": [rng.choice(("site a", "site b", "site c")) for _ in outcomes],
                "camera": [
                    "old" if not each.correct and rng.random() < 0.5 else "new" for each in outcomes
                ],
                "age": [str(rng.randrange(90)) for _ in outcomes],
                "station": [f"station {rng.randrange(200)}" for _ in outcomes],
            },
        ),
    )
    return dataclasses.replace(data, history=tuple(_history(epoch)))


def _history(epoch: EpochRecord) -> list[EpochRecord]:
    return [
        dataclasses.replace(
            epoch, epoch=i + 1, train_loss=1 / (i + 1), validation_loss=1.2 / (i + 1)
        )
        for i in range(8)
    ]


def render(num_labels: int, jpegs: list[bytes], *, label_length: int = 0) -> tuple[str, float]:
    """Return the page, and the CPU seconds of rendering it."""
    names = [f"{i}_{'species' * (i % 3 + 1)}" for i in range(num_labels)]
    labels = [name.ljust(label_length, "x") for name in names]
    challenger = make_outcomes(labels, 0.1, 0)
    champion = make_outcomes(labels, 0.12, 1)
    data = make_data(labels, challenger, jpegs)
    verdict = judge(
        challenger,
        champion,
        model_name="species",
        version="t" * 16,
        champion_version="c" * 16,
        settings=GateSettings(),
        decided_at="2026-11-27T14:05:00Z",
    )
    started = time.process_time()
    html = render_report(
        data,
        verdict,
        ReportContext(
            version_uri=f"gs://bucket/repot/models/species/{'t' * 16}",
            dataset_uri=f"gs://bucket/repot/datasets/{'d' * 16}",
            compared_labels=tuple(compare_labels(champion, challenger)),
            request=RequestedRun(
                command="repot run gs://bucket/pictures --storage-uri gs://bucket/repot "
                "--backbone efficientnet_lite0 --epochs 8"
            ),
            scoring_time=ScoringTime(num_pictures=4000, seconds=61.5),
        ),
    )
    return html, time.process_time() - started


def take_screenshots(pages: dict[str, Path], folder: Path) -> None:
    """Render every page at every width, light and dark."""
    from playwright.sync_api import sync_playwright

    program = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        for name, path in pages.items():
            for width in WIDTHS:
                for scheme in ("light", "dark"):
                    page = browser.new_page(
                        viewport={"width": width, "height": 900}, color_scheme=scheme
                    )
                    page.goto(path.as_uri())
                    target = folder / f"{name}-{width}-{scheme}.png"
                    page.screenshot(path=target, full_page=True)
                    wide = page.evaluate("document.documentElement.scrollWidth")
                    if wide > width:
                        print(f"{name}: {wide} pixels wide at {width}")
                    page.close()
        browser.close()


def main() -> int:
    """Print sizes and times; return 1 if the bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--screenshots", type=Path, help="folder for pages and screenshots")
    folder = parser.parse_args().screenshots
    jpegs = read_sample()
    print(f"{'labels':>8}  {'characters each':>15}  {'MB':>6}  {'render, CPU s':>13}")
    pages, is_met = {}, True
    for num_labels, length in [*((count, 0) for count in NUM_LABELS), (1000, 255)]:
        html, seconds = render(num_labels, jpegs, label_length=length)
        size = len(html.encode())
        is_met = is_met and size <= MAX_BYTES
        print(f"{num_labels:>8,}  {length or 'short':>15}  {size / 1e6:>6.2f}  {seconds:>13.2f}")
        if folder:
            folder.mkdir(parents=True, exist_ok=True)
            name = f"{num_labels}-{length}" if length else str(num_labels)
            pages[name] = folder / f"{name}.html"
            pages[name].write_text(html, encoding="utf-8")
    print(f"bar: at most {MAX_BYTES / 1e6:.0f} MB: {'met' if is_met else 'NOT MET'}")
    if folder:
        take_screenshots(pages, folder)
    return 0 if is_met else 1


if __name__ == "__main__":
    raise SystemExit(main())
