"""Exports: every format is written, loaded again and compared with its model."""

import dataclasses
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from repot import extras, storage
from repot.errors import ModelError, UsageError
from repot.evaluator.evaluate import evaluate_run
from repot.evaluator.export_record import (
    INTEGER_ARITHMETICS,
    ExportedFile,
    ExportParity,
    ExportRecord,
    arithmetics_of,
    read_export,
    read_exports,
)
from repot.evaluator.exports.convert import _number_names, convert
from repot.evaluator.exports.export import export_model
from repot.evaluator.exports.runtimes import load_export
from repot.evaluator.gate import decide
from repot.extras import EXPORT_FORMATS, check_export_formats
from repot.json_record import write_record
from repot.settings import GateSettings
from repot_pipelines.commands.export import export_command
from tests.integration.evaluator.colours import (
    COLOURS,
    IMAGE_SIZE,
    NUM_VALIDATION,
    MakeRun,
    save_model,
    save_picture,
)

FLOAT_FORMATS = [name for name in EXPORT_FORMATS if name != "litert-int8"]
PARITY = ExportParity(
    num_pictures=400,
    num_agreeing=400,
    max_difference=1e-5,
    num_correct=300,
    only_model=0,
    only_export=0,
)


def require(export_format: str) -> None:
    for module in extras._MODULES.get(EXPORT_FORMATS[export_format], ()):
        pytest.importorskip(module, reason="make venv EXTRAS=litert,onnx")


@pytest.fixture(scope="module")
def model_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("exported") / "model"
    save_model(folder, list(COLOURS), list(COLOURS))
    _add_unlike(folder / "model.keras")
    return str(folder)


def _add_unlike(path: Path) -> None:
    """Add the second output of a published model: here 3 times the share of green."""
    import keras

    model = keras.models.load_model(path)
    mean = model.layers[1].output
    score = keras.layers.Dense(1, use_bias=False, name="unlike_distance")
    outputs = {"probabilities": model.output, "unlike": keras.ops.sum(score(mean), axis=1)}
    score.set_weights([np.array([[0.0], [3.0], [0.0]], np.float32)])
    keras.Model(model.input, outputs).save(path)


@pytest.fixture(scope="module")
def jpegs(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    folder = tmp_path_factory.mktemp("pictures")
    for colour in COLOURS:
        save_picture(folder / f"{colour}.jpg", colour)
    return [(folder / f"{colour}.jpg").read_bytes() for colour in COLOURS]


@pytest.mark.parametrize(
    "kind",
    [(name, arithmetic) for name in EXPORT_FORMATS for arithmetic in arithmetics_of(name)],
    ids="-".join,
)
def test_export_gives_the_probabilities_of_the_model(
    kind: tuple[str, str], model_uri: str, dataset: Path, jpegs: list[bytes], tmp_path: Path
) -> None:
    export_format, arithmetic = kind
    require(export_format)
    from repot.predictor import load_model

    written = convert(export_format, model_uri, str(dataset), tmp_path, arithmetic=arithmetic)
    predict = load_export(export_format, tmp_path, written.spec)

    expected = load_model(model_uri).predict(jpegs)
    tolerance = 1e-5 if export_format in FLOAT_FORMATS else 0.05
    assert written.arithmetic == arithmetic
    assert np.ptp(expected.probabilities, axis=0).min() > 0.9
    scores = predict(jpegs)
    np.testing.assert_allclose(scores.probabilities, expected.probabilities, atol=tolerance)
    has_unlike = export_format in FLOAT_FORMATS
    assert list(scores.unlike > 1) == [False, has_unlike, False]
    assert written.has_unlike == has_unlike
    assert (tmp_path / "labels.txt").read_text().split() == list(COLOURS) == list(written.labels)
    assert "probabilities" in [output.name for output in written.outputs]
    assert "tensorflow" in written.libraries
    assert not (tmp_path / "saved_model").exists()


def test_litert_file_has_its_labels_and_integers_state_their_scale(
    model_uri: str, dataset: Path, tmp_path: Path
) -> None:
    require("litert-int8")

    written = convert("litert-int8", model_uri, str(dataset), tmp_path, arithmetic="int8")

    with zipfile.ZipFile(tmp_path / "model.tflite") as archive:
        assert archive.read("labels.txt").decode().split() == list(COLOURS)
    (pixels,), (output,) = written.inputs, written.outputs
    assert (pixels.name, pixels.dtype, pixels.shape) == ("central", "uint8", (1, 32, 32, 3))
    assert pixels.scale == pytest.approx(1 / 255, rel=0.01)
    assert (output.dtype, output.scale, output.zero_point) == ("uint8", 1 / 256, 0)
    assert written.float_operations == ()


def test_onnx_file_has_labels_and_preprocessing(
    model_uri: str, dataset: Path, tmp_path: Path
) -> None:
    require("onnx")
    import onnx

    written = convert("onnx", model_uri, str(dataset), tmp_path)

    properties = {
        each.key: each.value for each in onnx.load(tmp_path / "model.onnx").metadata_props
    }
    assert properties["labels"].split("\n") == list(COLOURS)
    assert tuple(properties["preprocessing"].split("\n")) == written.preprocessing


@pytest.mark.parametrize("export_format", ["litert", "onnx"])
def test_constants_and_compiled_functions_of_keras_are_exported(
    export_format: str, jpegs: list[bytes], tmp_path: Path
) -> None:
    """EfficientNetV2 has a Normalization layer, ConvNeXt convolutions in groups and exact GELU."""
    require(export_format)
    import keras

    from repot.predictor import load_model

    save_model(tmp_path / "model", list(COLOURS), list(COLOURS))
    head = keras.models.load_model(tmp_path / "model" / "model.keras")
    pictures = keras.Input([IMAGE_SIZE, IMAGE_SIZE, 3])
    normalise = keras.layers.Normalization(mean=[0.4, 0.5, 0.6], variance=[0.04, 0.05, 0.06])
    kernel = keras.initializers.GlorotUniform(seed=1)
    in_groups = keras.layers.Conv2D(
        3, 3, groups=3, use_bias=False, activation="gelu", kernel_initializer=kernel
    )
    keras.Model(pictures, head.layers[-1](head.layers[1](in_groups(normalise(pictures))))).save(
        tmp_path / "model" / "model.keras"
    )
    (tmp_path / "out").mkdir()

    written = convert(export_format, str(tmp_path / "model"), "", tmp_path / "out")
    scores = load_export(export_format, tmp_path / "out", written.spec)(jpegs)

    expected = load_model(str(tmp_path / "model")).predict(jpegs)
    assert np.ptp(expected.probabilities, axis=0).max() > 0.1
    np.testing.assert_allclose(scores.probabilities, expected.probabilities, atol=1e-5)


@pytest.mark.parametrize(
    ("export_format", "changes", "problem"),
    [
        ("onnx", {}, ""),
        ("onnx", {"num_agreeing": 399}, "another first label for 1 of 400 pictures"),
        ("onnx", {"max_difference": 1.1e-5}, "a probability differs by 1.1e-05"),
        ("onnx", {"max_difference": float("nan")}, "a probability differs by nan"),
        ("onnx", {"num_unlike_agreeing": 400}, ""),
        ("onnx", {"num_unlike_agreeing": 399}, "it calls other pictures unlike"),
        ("litert-int8", {"num_agreeing": 300, "max_difference": 0.9}, ""),
        ("litert-int8", {"only_model": 5, "only_export": 3}, ""),
        ("litert-int8", {"only_model": 6, "only_export": 3}, "loses 0.8 points of precision@1"),
    ],
)
def test_what_is_accepted(export_format: str, changes: dict[str, Any], problem: str) -> None:
    assert problem in dataclasses.replace(PARITY, **changes).problem(export_format)
    assert bool(problem) == bool(dataclasses.replace(PARITY, **changes).problem(export_format))


def test_command_exports_compares_and_refuses_a_folder_with_other_files(
    model_uri: str, dataset: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    arguments = [model_uri, "--data", str(dataset), "--format", "keras", "--output", str(output)]

    done = CliRunner().invoke(export_command, arguments, catch_exceptions=False)

    assert done.exit_code == 0
    assert f"same first label for {NUM_VALIDATION}" in done.output
    record = ExportRecord.from_text((output / "export.json").read_text())
    assert record.parity is not None
    assert (record.parity.num_pictures, record.parity.num_correct) == (NUM_VALIDATION, 11)
    assert {file.name for file in record.files} == {"labels.txt", "model.keras", "model_spec.json"}
    again = CliRunner().invoke(export_command, arguments, catch_exceptions=False)
    assert again.output == done.output
    (output / "export.json").unlink()
    refused = CliRunner().invoke(export_command, arguments)
    assert isinstance(refused.exception, UsageError)
    assert "must be new or empty" in str(refused.exception)


def make_record(export_format: str, parity: ExportParity, *files: str) -> ExportRecord:
    return ExportRecord(
        export_id="e1",
        format=export_format,
        dataset_id="colours",
        files=tuple(ExportedFile(name=name, size_bytes=5, sha256="0" * 64) for name in files),
        parity=parity,
        problem=parity.problem(export_format),
    )


def test_accepted_exports_are_published_and_rejected_ones_are_stated(
    make_run: MakeRun, storage_uri: str
) -> None:
    run_uri = make_run("first")
    bad = dataclasses.replace(PARITY, only_model=6)
    for record in (make_record("onnx", PARITY, "model.onnx"), make_record("litert-int8", bad)):
        folder = f"{run_uri}/exports/{record.format}"
        write_record(f"{folder}/export.json", record)
        for file in record.files:
            storage.write_text(f"{folder}/{file.name}", "bytes")
    ids = {"storage_uri": storage_uri, "dataset_id": "colours", "training_id": "first"}
    evaluate_run(**ids, model_name="m")

    report = decide(
        **ids,
        model_name="m",
        settings=GateSettings(),
        decided_at="2026-11-27T14:00Z",
        request=None,
    )

    version_uri = f"{storage_uri}/models/m/first"
    published = [info.uri for info in storage.list_objects(f"{version_uri}/exports")]
    names = ("checksums.json", "export.json", "model.onnx")
    assert published == [f"{version_uri}/exports/onnx/{name}" for name in names]
    problem = "it loses 1.5 points of precision@1 on 400 pictures"
    assert report.verdict.decision == "promote"
    assert report.verdict.reasons[-1].startswith(
        f"The export to litert-int8 is rejected and not published: {problem}"
    )
    card = storage.read_text(f"{version_uri}/model_card.md")
    assert "| onnx | 0.0 | 400 of 400 | 1.0e-05 | 0.7500 | yes |" in card
    assert f"| litert-int8 | – | 400 of 400 | 1.0e-05 | 0.7350 | no: {problem}" in card
    assert "1.0e-05" in report.report_html
    assert "no: it loses 1.5 points" in report.report_html.replace("<wbr>", "")


def test_version_never_changes_after_it_was_published(
    make_run: MakeRun, storage_uri: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    run_uri = make_run("first")
    ids = {"storage_uri": storage_uri, "dataset_id": "colours", "training_id": "first"}
    evaluate_run(**ids, model_name="m")
    write_record(f"{run_uri}/exports/onnx/export.json", make_record("onnx", PARITY))

    evaluate_run(**ids, model_name="m")

    assert not storage.list_objects(f"{storage_uri}/models/m/first/exports")
    assert f"published without onnx; the exports are in {run_uri}/exports." in caplog.text


def lossy_model(folder: Path, *, scale: float, in_maps: bool) -> None:
    """Save a model whose green and blue are `scale` times weaker than red, until the last layer.

    Where 8 bits have to hold all three, green and blue vanish: in the last feature map, or only in
    the features after it.
    """
    import keras

    save_model(folder, list(COLOURS), list(COLOURS))
    pictures = keras.Input([IMAGE_SIZE, IMAGE_SIZE, 3])
    wide: Any = (
        keras.layers.Conv2D(3, 1, use_bias=False)
        if in_maps
        else keras.layers.Dense(3, use_bias=False)
    )
    pool = keras.layers.GlobalAveragePooling2D()
    head = keras.layers.Dense(3, activation="softmax")
    features = pool(wide(pictures)) if in_maps else wide(pool(pictures))
    lossy = keras.Model(pictures, head(features))
    kernel = np.diag([scale, 1.0, 1.0]).astype(np.float32)
    wide.set_weights([kernel[np.newaxis, np.newaxis] if in_maps else kernel])
    head.set_weights([np.diag([8 / scale, 8.0, 8.0]).astype(np.float32), np.zeros(3, np.float32)])
    lossy.save(folder / "model.keras")


@pytest.mark.parametrize(
    ("in_maps", "lossy", "good"),
    [(False, "int8", "int8-float-head"), (True, "int8-float-head", "int16")],
)
def test_each_arithmetic_keeps_what_the_one_before_it_loses(
    in_maps: bool, lossy: str, good: str, dataset: Path, tmp_path: Path
) -> None:
    require("litert-int8")
    lossy_model(tmp_path / "model", scale=1000, in_maps=in_maps)
    for colour in COLOURS:
        save_picture(tmp_path / f"{colour}.jpg", colour)
    pictures = [(tmp_path / f"{colour}.jpg").read_bytes() for colour in COLOURS]

    def first_labels(arithmetic: str) -> list[int]:
        folder = tmp_path / arithmetic
        folder.mkdir()
        uri = str(tmp_path / "model")
        written = convert("litert-int8", uri, str(dataset), folder, arithmetic=arithmetic)
        scores = load_export("litert-int8", folder, written.spec)(pictures)
        return [int(each) for each in scores.probabilities.argmax(axis=1)]

    assert first_labels(lossy) != [0, 1, 2]
    assert first_labels(good) == [0, 1, 2]


@pytest.mark.slow
@pytest.mark.parametrize(("in_maps", "arithmetic"), [(False, "int8-float-head"), (True, "int16")])
def test_integer_export_uses_the_first_arithmetic_that_is_accepted(
    in_maps: bool, arithmetic: str, dataset: Path, tmp_path: Path
) -> None:
    require("litert-int8")
    lossy_model(tmp_path / "model", scale=1000, in_maps=in_maps)

    record = export_model(
        "litert-int8",
        model_uri=str(tmp_path / "model"),
        dataset_uri=str(dataset),
        output_uri=str(tmp_path / "out"),
    )

    assert record.conversion is not None
    assert record.conversion.arithmetic == arithmetic
    assert f"litert-int8 in {INTEGER_ARITHMETICS[arithmetic]}, 0.0 MB; on 12" in record.summary
    assert record.conversion.float_operations or arithmetic == "int16"


@pytest.mark.slow
def test_run_rejects_an_export_that_loses_precision_and_makes_each_once(
    make_run: MakeRun, storage_uri: str, tmp_path: Path
) -> None:
    require("litert-int8")
    run_uri = make_run("first")
    lossy_model(tmp_path / "lossy", scale=1e6, in_maps=True)
    storage.copy_folder(str(tmp_path / "lossy"), f"{run_uri}/model")
    ids = {"storage_uri": storage_uri, "dataset_id": "colours", "training_id": "first"}

    evaluate_run(**ids, model_name="m", exports=("litert", "litert-int8"))

    accepted, rejected = read_exports(run_uri)
    assert (accepted.problem, rejected.files) == ("", ())
    assert accepted.parity is not None
    assert accepted.parity.num_agreeing == NUM_VALIDATION
    assert "it loses 50.0 points of precision@1 on 12 pictures" in rejected.problem
    assert "this is the best of 3 ways to compute: 8-bit integers; 8-bit" in rejected.problem
    before = storage.stat(f"{run_uri}/exports/litert/export.json")
    evaluate_run(**ids, model_name="m", exports=("litert", "litert-int8"))
    assert storage.stat(f"{run_uri}/exports/litert/export.json") == before
    arguments = [f"{storage_uri}/models/m/first", "--format", "litert-int8"]
    done = CliRunner().invoke(export_command, [*arguments, "--output", str(tmp_path / "out")])
    assert isinstance(done.exception, ModelError)
    assert "litert-int8 is rejected and not published: it loses 50.0" in str(done.exception)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("export_format", EXPORT_FORMATS)
def test_exports_of_equal_models_are_equal_bytes(
    export_format: str, model_uri: str, dataset: Path, tmp_path: Path
) -> None:
    require(export_format)
    records = [
        export_model(
            export_format,
            model_uri=model_uri,
            dataset_uri=str(dataset),
            output_uri=str(tmp_path / name),
        )
        for name in ("first", "second")
    ]

    assert records[0] == records[1]
    assert records[0].files


def _onnx_graph(first: str, second: str, made_up: str, dimension: str) -> Any:
    """Return relu(view + 1) * 2 with these names of constants, a tensor and the batch's size."""
    from onnx import TensorProto, helper, numpy_helper

    def value(name: str) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, [dimension, 3])

    constants = [(first, 1.0), (second, 2.0)]
    return helper.make_graph(
        [
            helper.make_node("Add", ["view", first], [f"{made_up}:0"], name=made_up),
            helper.make_node("Relu", [f"{made_up}:0"], ["relu"], name="relu"),
            helper.make_node("Mul", ["relu", second], ["out"], name="out"),
        ],
        "graph",
        [value("view")],
        [value("out")],
        [numpy_helper.from_array(np.float32(number), name) for name, number in sorted(constants)],
    )


def test_names_that_a_converter_makes_up_depend_on_their_use_only() -> None:
    require("onnx")
    graphs = [
        _onnx_graph("block1/min__2", "mean:0", "add__3", "unk__7"),
        _onnx_graph("fold__9", "block5/min__2", "add__12", "unk__8"),
    ]
    for graph in graphs:
        _number_names(graph)

    assert graphs[0] == graphs[1]
    assert [each.name for each in graphs[0].initializer] == ["constant__0", "constant__2"]
    assert [each.name for each in graphs[0].node] == ["add__0", "relu", "out"]


def test_model_without_a_dataset_is_reported(model_uri: str, tmp_path: Path) -> None:
    arguments = [model_uri, "--format", "keras", "--output", str(tmp_path / "out")]

    done = CliRunner().invoke(export_command, arguments)

    assert isinstance(done.exception, ModelError)
    assert "has no model.json. Name the dataset's folder with --data" in str(done.exception)


def test_missing_package_is_reported_before_anything_is_written(
    model_uri: str, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    output = tmp_path / "out"

    with pytest.raises(UsageError, match=r"Exports to onnx must find .* `make venv EXTRAS=onnx`"):
        export_model("onnx", model_uri=model_uri, dataset_uri=str(dataset), output_uri=str(output))

    assert not output.exists()
    check_export_formats(["keras", "saved_model"])


def test_record_of_another_version_does_not_count(tmp_path: Path) -> None:
    (tmp_path / "export.json").write_text(json.dumps({"format": "onnx", "new": 1}))

    assert read_export(str(tmp_path)) is None
    assert storage.exists(str(tmp_path / "export.json"))
