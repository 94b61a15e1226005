"""Settings of a run: its pictures, shards, checkpoint, training and gate."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from repot.recipes import RECIPES
from repot.settings.fields import Settings, between, matching, must, one_of, setting
from repot.zoo import BACKBONES

CHECKPOINT_VALUES = ("auto", "ema", "raw")
MAX_BUILDER_PODS = 64

_MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_SHA256 = re.compile(r"([0-9a-fA-F]{64})?")


@dataclass(frozen=True, kw_only=True, slots=True)
class RunSettings(Settings):
    """What a run reads, where it writes, and under which name it publishes."""

    pictures_uri: str = setting(
        None,
        "Folder of label folders, or of train/ and validation/ folders of label folders.",
        option="",
    )
    storage_uri: str = setting(
        None,
        "Folder that everything is written to: gs://BUCKET/PREFIX or s3://BUCKET/PREFIX, "
        "or a local folder.",
        option="",
    )
    labels_file_uri: str = setting(
        "",
        "File with one label per line; the sorted folder names if not given.",
        option="--labels-file",
    )
    model_name: str = setting(
        "classifier",
        "Name that versions are published under.",
        check=matching(
            _MODEL_NAME,
            "be 1 to 63 letters, digits, '.', '_' or '-', starting with a letter or digit",
        ),
    )
    rebuild: str = setting("", "Any new text forces a new training.")
    builder_pods: int = setting(
        8,
        "Shard builder pods; each builds many shards.",
        check=between(1, MAX_BUILDER_PODS),
        option="",
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetSettings(Settings):
    """How pictures become shards; all of it is part of the dataset id."""

    validation_fraction: float = setting(
        0.2,
        "Share of the pictures held out for validation; ignored if the pictures are already split.",
        check=lambda name, value: (
            None if 0 < value < 1 else must(name, "lie between 0 and 1", value)
        ),
    )
    train_shards: int = setting(
        0,
        "Shards of the training split; 0 chooses about 1024 pictures per shard.",
        check=between(0, 99_999, "0 chooses"),
    )
    validation_shards: int = setting(
        0,
        "Shards of the validation split; 0 chooses.",
        check=between(0, 99_999, "0 chooses"),
    )
    num_threads: int = setting(
        1,
        "Thread count of the 2016 shard layout: decides which picture is in which shard, not the "
        "number of processes. Must divide both shard counts.",
        check=between(1, 1024),
    )

    def _problems(self) -> Iterator[str]:
        yield from Settings._problems(self)
        for name in ("train_shards", "validation_shards"):
            count = getattr(self, name)
            if 0 <= count <= 99_999 and self.num_threads >= 1 and count % self.num_threads:
                yield must(name, f"be a multiple of num_threads={self.num_threads}", count)


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointSettings(Settings):
    """Which pre-trained weights a training starts from."""

    checkpoint: str = setting(
        "default",
        "Pre-trained weights: a known name, a path or a URI; `default` is the backbone's own.",
    )
    checkpoint_sha256: str = setting(
        "",
        "SHA-256 that the checkpoint must have; not checked if not given.",
        check=matching(_SHA256, "be 64 hex digits"),
    )
    checkpoint_values: str = setting(
        "auto",
        "Values of a TensorFlow checkpoint: auto, ema (moving averages) or raw.",
        check=one_of(CHECKPOINT_VALUES),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingSettings(Settings):
    """How a model is trained; all of it is part of the training id."""

    backbone: str = setting(
        "inception_v3", f"Network: {', '.join(BACKBONES)}.", check=one_of(tuple(BACKBONES))
    )
    recipe: str = setting(
        "fine_tune", f"How to train: {', '.join(RECIPES)}.", check=one_of(tuple(RECIPES))
    )
    epochs: int = setting(
        0,
        "Epochs of the recipe's main phase; 0 uses the recipe's own.",
        check=between(0, 10_000, "0 uses the recipe's own"),
    )
    batch_size: int = setting(
        32,
        "Examples per training step, over all GPUs and workers together.",
        check=between(1, 65_536),
    )
    learning_rate: float = setting(
        0.0,
        "Peak learning rate of the recipe's main phase; 0 uses the recipe's own.",
        check=between(0, 100, "0 uses the recipe's own"),
    )
    image_size: int = setting(
        0, "Height and width of the model's input in pixels; 0 uses the backbone's own."
    )
    seed: int = setting(
        0, "Seed of initialisation, shuffling and augmentation.", check=between(0, 2**31 - 1)
    )
    input_queue_memory_factor: int = setting(
        1, "Shuffle buffer in units of 1024 records.", check=between(1, 1024)
    )

    def _problems(self) -> Iterator[str]:
        yield from Settings._problems(self)
        smallest = BACKBONES[self.backbone].min_image_size if self.backbone in BACKBONES else 32
        if self.image_size != 0 and not smallest <= self.image_size <= 4096:
            rule = f"be 0 (the backbone's own) or lie in {smallest}..4096 for {self.backbone}"
            yield must("image_size", rule, self.image_size)


@dataclass(frozen=True, kw_only=True, slots=True)
class GateSettings(Settings):
    """When a model may be promoted, and how many rejected pictures a run accepts."""

    min_precision: float = setting(0.0, "Lowest precision@1 that is promoted.", check=between(0, 1))
    max_rejected_fraction: float = setting(
        0.05,
        "Share of damaged pictures above which the run fails.",
        check=between(0, 1),
    )
