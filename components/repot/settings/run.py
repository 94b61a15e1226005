"""Settings of a run: its pictures, its shards, its gate, and where everything is."""

import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

from repot.extras import EXPORT_FORMATS
from repot.settings.fields import (
    CLUSTER_DEFAULT,
    Rule,
    Settings,
    between,
    matching,
    must,
    one_of,
    setting,
)

_GATE_SPLITS = ("validation", "test")
_UNDECIDED_ACTIONS = ("keep", "prefer_new")
_TUTORIAL_LAYOUT, STABLE_LAYOUT = "tutorial", "stable"
_MAX_BUILDER_PODS = 64
INPUT_FORMATS = (
    "auto",
    "folders",
    "csv",
    "jsonl",
    "vertex",
    "sagemaker",
    "azureml",
    "huggingface",
    "webdataset",
    "tfrecord",
)

_MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


def _are_formats(text: str) -> bool:
    names = text.split(",") if text else []
    return len(set(names)) == len(names) and set(names) <= set(EXPORT_FORMATS)


def _is_pattern(text: str) -> bool:
    try:
        with warnings.catch_warnings():
            # Python will read sets like [[:alpha:]] in another way; it is no class of letters.
            warnings.simplefilter("error", FutureWarning)
            re.compile(text)
    except (re.error, FutureWarning):
        return False
    return True


@dataclass(frozen=True, kw_only=True, slots=True)
class RunSettings(Settings):
    """What a run reads, where it writes, and under which name it publishes."""

    pictures_uri: str = setting(
        None,
        "Folder of label folders, or of train/ and validation/ (val/, valid/) folders of label "
        "folders; a test/ folder beside them becomes the test split. Or a zip or tar file, a "
        "manifest, an import file of another system, or TFRecord shards.",
        change_when="always",
        cluster_only=True,
        place="form",
    )
    storage_uri: str = setting(
        CLUSTER_DEFAULT,
        "Folder that everything is written to: gs://BUCKET/FOLDER or s3://BUCKET/FOLDER, or "
        "a local folder; not inside the pictures, and the same in every run. `default` is the "
        "cluster's, STORAGE_URI in the ConfigMap.",
        change_when="the cluster has no default, or the results belong elsewhere",
        cluster_only=True,
        place="form",
        cluster_default=True,
    )
    labels_file_uri: str = setting(
        "",
        "File with one label per line; the sorted folder names if not set.",
        change_when="class ids must match another system",
        option="--labels-file",
    )
    model_name: str = setting(
        "classifier",
        "Name that versions are published under.",
        rule=matching(
            _MODEL_NAME,
            "be 1 to 63 letters, digits, '.', '_' or '-', starting with a letter or digit",
        ),
        change_when="one storage_uri serves several models",
        place="form",
    )
    rebuild: str = setting(
        "",
        "Any new text forces a new training.",
        change_when="a finished training must be repeated",
    )
    builder_pods: int = setting(
        8,
        "Shard builder pods; each builds many shards.",
        rule=between(1, _MAX_BUILDER_PODS),
        change_when="there are hundreds of thousands of pictures",
        cluster_only=True,
        cluster_default=True,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class InputSettings(Settings):
    """What the pictures' location is, and files that state more about the pictures."""

    input_format: str = setting(
        "auto",
        f"Format of PICTURES: {', '.join(INPUT_FORMATS)}. auto detects it from the content.",
        rule=one_of(INPUT_FORMATS),
        change_when="the format is not recognised, or taken for another one",
    )
    imagenet_metadata_file_uri: str = setting(
        "",
        "File with a synset, a tab and a text in each line, as ImageNet has it: the labels are "
        "synsets, and the records get the texts.",
        change_when="the labels are synsets of ImageNet",
        option="--imagenet-metadata-file",
    )
    bounding_box_file_uri: str = setting(
        "",
        "Bounding boxes: a CSV file (picture, xmin, ymin, xmax, ymax), or a folder of XML files of "
        "ImageNet or Pascal VOC.",
        change_when="the pictures have bounding boxes",
        option="--bounding-box-file",
    )
    corrections_file_uri: str = setting(
        "",
        "CSV file with new labels of pictures, such as the edited suspects.csv of an earlier run: "
        "the column new_label, and content or path. Empty keeps a label, `-` leaves the picture "
        "out.",
        change_when="labels are wrong, such as those that the report suspects",
        option="--corrections",
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetSettings(Settings):
    """How pictures become shards; all of it is part of the dataset id."""

    nested: bool = setting(
        False,
        "Every picture below a label folder belongs to that label, also in subfolders.",
        change_when="label folders have subfolders, such as one per day or camera",
        place="form",
    )
    crop_to_boxes: bool = setting(
        False,
        "Make one example per bounding box, cropped to it, instead of one per picture.",
        change_when="pictures show several objects, or small ones",
    )
    validation_fraction: float = setting(
        0.2,
        "Fraction of each label's pictures held out for validation; ignored if they are already "
        "split.",
        rule=Rule("lie between 0 and 1", lambda value: 0 < value < 1),
        change_when="few pictures: larger; very many: smaller",
        place="form",
    )
    test_fraction: float = setting(
        0.0,
        "Fraction of each label's pictures held out for a test split; ignored if there is one.",
        rule=Rule("lie in 0..1, below 1", lambda value: 0 <= value < 1),
        change_when="you choose between models by their validation scores",
    )
    group_pattern: str = setting(
        "",
        "Regular expression on the path of a picture; pictures for which it finds the same text "
        "(that of its first capture group, if it has one) belong to the same split.",
        rule=Rule("be a regular expression", _is_pattern),
        change_when="pictures of one patient, place or video differ little",
    )
    shard_layout: str = setting(
        _TUTORIAL_LAYOUT,
        "Which picture is in which shard. tutorial: as in 2016; any change of the pictures changes "
        "all shards. stable: by the picture's content; the next dataset takes over what did not "
        "change, and only new pictures are read.",
        rule=one_of((_TUTORIAL_LAYOUT, STABLE_LAYOUT)),
        change_when="pictures are added or corrected often",
    )
    train_shards: int = setting(
        0,
        "Shards of the training split; 0 chooses about 1024 pictures per shard.",
        rule=between(0, 99_999, "0 chooses"),
        change_when="the layout must equal another one",
    )
    validation_shards: int = setting(
        0,
        "Shards of the validation split; 0 chooses.",
        rule=between(0, 99_999, "0 chooses"),
        change_when="the layout must equal another one",
    )
    test_shards: int = setting(
        0,
        "Shards of the test split, if there is one; 0 chooses.",
        rule=between(0, 99_999, "0 chooses"),
        change_when="the layout must equal another one",
    )
    num_threads: int = setting(
        1,
        "Thread count of the 2016 shard layout: decides which picture is in which shard, "
        "not the speed. Must divide all shard counts.",
        rule=between(1, 1024),
        change_when="shards must equal those of the 2016 program",
    )

    def _problems(self) -> Iterator[str]:
        yield from Settings._problems(self)
        for name in ("train_shards", "validation_shards", "test_shards"):
            count = getattr(self, name)
            if 0 <= count <= 99_999 and self.num_threads >= 1 and count % self.num_threads:
                yield must(name, f"be a multiple of num_threads={self.num_threads}", count)
        fractions = (self.validation_fraction, self.test_fraction)
        if max(fractions) < 1 <= sum(fractions):
            rule = f"leave pictures for training beside validation_fraction={fractions[0]:g}"
            yield must("test_fraction", rule, fractions[1])


@dataclass(frozen=True, kw_only=True, slots=True)
class GateSettings(Settings):
    """When a model may be promoted, its formats, and how many rejected pictures a run accepts."""

    min_precision: float = setting(
        0.0,
        "Lowest precision@1 that is promoted.",
        rule=between(0, 1),
        change_when="a poor first model must not become the champion",
        place="form",
    )
    allow_label_removal: bool = setting(
        False,
        "Promote a model even if it lacks a label that the champion has.",
        change_when="a label was removed or renamed on purpose",
    )
    gate_split: str = setting(
        "validation",
        "Split that the gate decides on: validation, or test, if the pictures have one.",
        rule=one_of(_GATE_SPLITS),
        change_when="settings were chosen by validation scores, and test has enough pictures",
    )
    when_undecided: str = setting(
        "keep",
        "What happens if the pictures do not show which version is better: keep the champion, or "
        "prefer_new, which promotes the new version unless it is clearly worse.",
        rule=one_of(_UNDECIDED_ACTIONS),
        change_when="a fresh model is worth more than a proven one",
    )
    comparisons_per_year: int = setting(
        365,
        "Number of comparisons with the champion that share the gate's yearly error of 5 %; see "
        "docs/gate.md.",
        rule=between(1, 1_000_000),
        change_when="you retrain weekly (52), monthly (12) or every hour (8760)",
    )
    allow_poor_model: bool = setting(
        False,
        "Promote a model even if it is no better than chance, or never finds one of the labels.",
        change_when="you try the pipeline on pictures that mean nothing",
    )
    force_promote: str = setting(
        "",
        "Reason for promoting the model whatever the gate finds; verdict and champion.json keep "
        "it.",
        change_when="a person has decided; for one run, never in a schedule",
    )
    exports: str = setting(
        "",
        "Formats that the model is also published in, with commas and no blanks: "
        f"{', '.join(EXPORT_FORMATS)}. An export whose answers on the validation pictures are not "
        "those of the model is rejected; see docs/deploy.md.",
        rule=Rule(
            f"be some of {', '.join(EXPORT_FORMATS)}, each once, with commas and no blanks",
            _are_formats,
        ),
        change_when="models are deployed to phones, or to servers that need another format",
    )
    max_rejected_fraction: float = setting(
        0.05,
        "Fraction of damaged pictures above which the run fails.",
        rule=between(0, 1),
        change_when="the pictures come from an unreliable source",
    )
    max_leaked_fraction: float = setting(
        1.0,
        "Fraction of validation or test pictures that may be copies of training pictures, above "
        "which the run fails; they are never scored.",
        rule=between(0, 1),
        change_when="copies must be removed before a training is paid for",
    )
    min_pictures_per_label: int = setting(
        0,
        "Number of pictures of a label below which the run fails.",
        rule=between(0, 1_000_000),
        change_when="labels with few pictures are mistakes",
    )
    max_conflicts: int = setting(
        -1,
        "Number of pictures with several labels above which the run fails; -1 only warns.",
        rule=between(-1, 1_000_000_000, "-1 only warns"),
        change_when="every picture must have one label",
    )

    @property
    def export_formats(self) -> tuple[str, ...]:
        """The formats that the model is also published in, in the order of EXPORT_FORMATS."""
        return tuple(name for name in EXPORT_FORMATS if name in self.exports.split(","))
