"""The KFP components after training: evaluate, gate, promote."""

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
    """Score the model on every validation example and publish it as a version of `model_name`."""
    from pathlib import Path

    from repot import progress
    from repot.evaluator.evaluate import evaluate_run
    from repot.notification import notify_failure

    with progress.task("evaluate"), notify_failure("evaluate", storage_uri):
        run = evaluate_run(
            storage_uri=storage_uri,
            dataset_id=dataset_id,
            training_id=training_id,
            model_name=model_name,
        )
    metrics.log_metric("precision_at_1", run.evaluation.precision_at_1)
    metrics.log_metric("recall_at_5", run.evaluation.recall_at_5)
    metrics.log_metric("num_examples", run.evaluation.num_examples)
    confusion_matrix.log_confusion_matrix(*run.confusion_matrix(max_labels=100))
    Path(report.path).write_text(run.report_html, encoding="utf-8")


@dsl.component(base_image=CPU_IMAGE, install_kfp_package=False)
def gate(
    dataset_id: str,
    training_id: str,
    model_name: str,
    min_precision: float,
    allow_label_removal: bool,
    storage_uri: str,
    champion_version: dsl.OutputPath(str),
    verdict_name: dsl.OutputPath(str),
    report: dsl.Output[dsl.HTML],
) -> str:
    """Decide whether the new version replaces the champion: `promote`, `reject` or `unchanged`."""
    from pathlib import Path

    from repot import progress
    from repot.evaluator.after_verdict import report_outcome
    from repot.evaluator.gate import decide
    from repot.model_registry import utc_time
    from repot.notification import notify_failure

    with progress.task("gate"), notify_failure("gate", storage_uri):
        result = decide(
            storage_uri=storage_uri,
            dataset_id=dataset_id,
            training_id=training_id,
            model_name=model_name,
            min_precision=min_precision,
            allow_label_removal=allow_label_removal,
            decided_at=utc_time(),
        )
        verdict = result.verdict
        progress.result(
            verdict=verdict.to_json(), headline=verdict.headline, report_uri=result.report_uri
        )
        if verdict.decision != "promote":
            report_outcome(storage_uri, result.verdict_name)
    outputs = {champion_version: verdict.champion_version, verdict_name: result.verdict_name}
    for path, text in outputs.items():
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(text)
    Path(report.path).write_text(result.report_html, encoding="utf-8")
    return verdict.decision


@dsl.component(base_image=CPU_IMAGE, install_kfp_package=False)
def promote(
    training_id: str,
    model_name: str,
    champion_version: str,
    verdict_name: str,
    run_id: str,
    storage_uri: str,
    model: dsl.Output[dsl.Model],
):
    """Make the new version the champion, unless the champion changed since the comparison."""
    from pathlib import Path

    from repot import layout, progress
    from repot.evaluator.after_verdict import report_outcome
    from repot.evaluator.versions import promote
    from repot.model_registry import ChampionChange, utc_time
    from repot.notification import notify_failure

    with progress.task("promote"), notify_failure("promote", storage_uri):
        change = ChampionChange(
            version=training_id,
            action="promote",
            time=utc_time(),
            run_id=run_id,
            verdict=verdict_name,
        )
        promote(storage_uri, model_name, change, expected_champion=champion_version)
        progress.result(promoted_version=training_id)
        report_outcome(storage_uri, verdict_name)
    uri = layout.model_uri(storage_uri, model_name, training_id)
    Path(model.path).write_text(uri + "\n")
    model.metadata.update(uri=uri, model_name=model_name, version=training_id)
