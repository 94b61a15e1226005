"""The KFP component after training: evaluate the model, judge it, and promote it if it is good."""

from kfp import dsl

from repot.container_images import CPU_IMAGE


@dsl.component(base_image=CPU_IMAGE, install_kfp_package=False)
def evaluate(
    dataset_id: str,
    training_id: str,
    model_name: str,
    settings: str,
    run_request: str,
    run_id: str,
    storage_uri: str,
    metrics: dsl.Output[dsl.Metrics],
    confusion_matrix: dsl.Output[dsl.ClassificationMetrics],
    report: dsl.Output[dsl.HTML],
    model_version: dsl.Output[dsl.Model],
) -> str:
    """Score the model, publish it as a version of `model_name`, and promote it if the gate says so.

    A task of its own for each of the three steps would cost a run half a minute, because Argo waits
    between the pods of a pipeline.

    Returns:
        The gate's decision: `promote`, `reject`, `undecided` or `unchanged`.
    """
    from pathlib import Path

    from repot import layout, progress
    from repot.evaluator.after_verdict import report_outcome
    from repot.evaluator.evaluate import evaluate_run
    from repot.evaluator.gate import decide_and_promote
    from repot.evaluator.summary import comparable_metrics
    from repot.model_registry import utc_time
    from repot.notification import notify_failure
    from repot.requested_run import RequestedRun
    from repot.settings import GateSettings

    gate_settings = GateSettings.from_text(settings)
    with progress.task("evaluate"), notify_failure("evaluate", storage_uri):
        run = evaluate_run(
            storage_uri=storage_uri,
            dataset_id=dataset_id,
            training_id=training_id,
            model_name=model_name,
            exports=gate_settings.export_formats,
        )
    with progress.task("gate"), notify_failure("gate", storage_uri):
        result = decide_and_promote(
            storage_uri=storage_uri,
            dataset_id=dataset_id,
            training_id=training_id,
            model_name=model_name,
            settings=gate_settings,
            request=RequestedRun.from_text(run_request),
            run_id=run_id,
            decided_at=utc_time(),
        )
        verdict = result.verdict
        progress.result(
            verdict=verdict.to_json(), headline=verdict.headline, report_uri=result.report_uri
        )
        report_outcome(storage_uri, result.verdict_name)
    metrics.metadata.update(comparable_metrics(run.evaluation, verdict))
    confusion_matrix.log_confusion_matrix(*run.confusion_matrix(max_labels=100))
    Path(report.path).write_text(result.report_html, encoding="utf-8")
    report.metadata.update(verdict=verdict.decision, headline=verdict.headline)
    uri = layout.model_uri(storage_uri, model_name, training_id)
    Path(model_version.path).write_text(uri + "\n")
    model_version.metadata.update(
        uri=uri, model_name=model_name, version=training_id, verdict=verdict.decision
    )
    return verdict.decision
