"""The KFP components that judge a trained model: evaluate, gate, promote."""

from kfp import dsl

from repot.container_images import CPU_IMAGE


@dsl.component(base_image=CPU_IMAGE, install_kfp_package=False)
def evaluate(
    dataset_id: str,
    training_id: str,
    model_name: str,
    storage_uri: str,
    metrics: dsl.Output[dsl.Metrics],
    confusion_matrix: dsl.Output[dsl.ClassificationMetrics],
    report: dsl.Output[dsl.HTML],
):
    """Score the model on every validation example once, and publish it as a version of `model_name`."""
    from pathlib import Path

    from repot import progress
    from repot.evaluator.evaluate import evaluate_run

    with progress.task("evaluate"):
        scores = evaluate_run(
            storage_uri=storage_uri,
            dataset_id=dataset_id,
            training_id=training_id,
            model_name=model_name,
        )
    for name in ("precision_at_1", "recall_at_5", "num_examples"):
        metrics.log_metric(name, scores.metrics[name])
    confusion_matrix.log_confusion_matrix(*scores.confusion_matrix(max_labels=100))
    Path(report.path).write_text(scores.report_html, encoding="utf-8")


@dsl.component(base_image=CPU_IMAGE, install_kfp_package=False)
def gate(
    dataset_id: str,
    training_id: str,
    model_name: str,
    min_precision: float,
    storage_uri: str,
    champion_version: dsl.OutputPath(str),
    report: dsl.Output[dsl.HTML],
) -> str:
    """Return `promote`, `reject` or `unchanged`: the new version against the threshold and the champion."""
    from pathlib import Path

    from repot import progress
    from repot.evaluator.evaluate import judge_run

    with progress.task("gate"):
        judged = judge_run(
            storage_uri=storage_uri,
            dataset_id=dataset_id,
            training_id=training_id,
            model_name=model_name,
            min_precision=min_precision,
        )
        progress.result(verdict=judged.verdict.to_json(), report_uri=judged.report_uri)
    Path(champion_version).parent.mkdir(parents=True, exist_ok=True)
    Path(champion_version).write_text(judged.verdict.champion_version)
    Path(report.path).write_text(judged.report_html, encoding="utf-8")
    return judged.verdict.verdict


@dsl.component(base_image=CPU_IMAGE, install_kfp_package=False)
def promote(
    training_id: str,
    model_name: str,
    champion_version: str,
    storage_uri: str,
    model: dsl.Output[dsl.Model],
):
    """Point champion.json at the new version, if the champion is still the one that the gate compared with."""
    from pathlib import Path

    from repot import layout, progress
    from repot.evaluator.promote import promote

    with progress.task("promote"):
        promote(storage_uri, model_name, training_id, expected_champion=champion_version)
        progress.result(promoted_version=training_id)
    uri = layout.model_uri(storage_uri, model_name, training_id)
    Path(model.path).write_text(uri + "\n")
    model.metadata.update(uri=uri, model_name=model_name, version=training_id)
