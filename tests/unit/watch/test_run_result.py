import io
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from repot_pipelines.kfp_server.errors import ServerError
from repot_pipelines.kfp_server.server import Server
from repot_pipelines.watch import run_result
from repot_pipelines.watch.gate_result import (
    PROMOTED,
    REJECTED,
    UNCHANGED,
    UNKNOWN,
    GateResult,
)
from repot_pipelines.watch.run_result import (
    RunResult,
    TaskFailure,
    print_run_result,
    read_run_result,
)
from repot_pipelines.watch.tasks import PipelineTask, TaskStatus

SERVER = Server(
    client=None,
    address="http://kfp",
    ui_address="",
    version=(2, 17),
    namespace="",
    kfp_namespace="kubeflow",
)


@pytest.fixture(autouse=True)
def no_workflow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_result, "list_workflow_pods", lambda *_: [])


def finished_run(state: str, *history: str) -> Any:
    entries = [SimpleNamespace(state=each) for each in (*history, state)]
    return SimpleNamespace(run_id="r-1", state=state, state_history=entries)


def printed(gate: GateResult | None) -> list[str]:
    output = io.StringIO()
    result = RunResult(run_id="r-1", state="SUCCEEDED", failures=(), gate=gate)
    print_run_result(Console(file=output), result)
    return output.getvalue().splitlines()


def test_killed_process_gets_advice_about_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_result, "failed_pods", lambda *_: ["pod"])
    monkeypatch.setattr(run_result, "read_pod_log", lambda *_: "epoch 1\nKilled\n")
    task = PipelineTask(key="train", title="Train", parent="")
    status = TaskStatus(task=task, state="failed", num_done=0, num_pods=1, seconds=1.0)

    result = read_run_result(SERVER, finished_run("FAILED"), [status], [])

    (failure,) = result.failures
    assert failure.title == "Train"
    assert failure.log_tail.startswith("epoch 1\nKilled\nThe process was killed, most likely for")
    assert "trainer_memory" in failure.log_tail


def test_lost_result_of_the_cache_gets_the_advice_to_run_without_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log = (
        'I1124 00:06:52.8 22 main.go:333] input ComponentSpec:{\n  "a": 1\n}\n'
        "F1124 00:06:53.1 22 main.go:127] KFP driver: driver.Container(pipelineName=repot) "
        "failed: failure while getting execution of cachedMLMDExecutionID 17: rpc error: code = "
        "NotFound\n"
    )
    monkeypatch.setattr(run_result, "failed_pods", lambda *_: ["pod"])
    monkeypatch.setattr(run_result, "read_pod_log", lambda *_: log)
    task = PipelineTask(key="train", title="Train", parent="")
    status = TaskStatus(task=task, state="failed", num_done=0, num_pods=1, seconds=1.0)

    result = read_run_result(SERVER, finished_run("FAILED"), [status], [])

    lines = result.failures[0].log_tail.splitlines()
    assert "cachedMLMDExecutionID 17" in lines[0]
    assert " ".join(lines[1:]) == (
        "KFP's metadata store has lost the result that KFP's cache has for this task. "
        "Start the run again with --no-cache."
    )


@pytest.mark.parametrize(
    ("state", "history", "expected"),
    [
        ("FAILED", (), "FAILED"),
        ("FAILED", ("CANCELING",), "CANCELED"),
        ("CANCELED", (), "CANCELED"),
        ("SUCCEEDED", ("CANCELING",), "SUCCEEDED"),
    ],
)
def test_state_of_a_terminated_run_is_canceled(
    state: str, history: tuple[str, ...], expected: str
) -> None:
    assert read_run_result(SERVER, finished_run(state, *history), [], []).state == expected


@pytest.mark.parametrize(
    ("state", "failures", "message"),
    [
        ("CANCELED", (), "The run r-1 was terminated before its end."),
        (
            "FAILED",
            (),
            (
                "The run r-1 failed, and the server does not report which task failed. "
                "Check the run in the UI."
            ),
        ),
        (
            "FAILED",
            (TaskFailure(title="Train", log_tail="a\n\nb"), TaskFailure(title="Gate", log_tail="")),
            (
                "The run r-1 failed.\nTrain:\n  a\n\n  b\n"
                "Gate: failed; its log is not available here, see the UI."
            ),
        ),
    ],
)
def test_failed_run_is_an_error_with_the_log_tails(
    state: str, failures: tuple[TaskFailure, ...], message: str
) -> None:
    result = RunResult(run_id="r-1", state=state, failures=failures, gate=None)

    with pytest.raises(ServerError) as caught:
        print_run_result(Console(file=io.StringIO()), result)

    assert str(caught.value) == message


def test_run_without_a_gate_prints_only_its_success() -> None:
    assert printed(None) == ["The run succeeded."]


def test_gate_result_is_printed_with_reasons_and_report() -> None:
    gate = GateResult(
        verdict=REJECTED, headline="Not promoted: 0.7", reasons=("[low]",), report_uri="gs://r"
    )

    assert printed(gate) == [
        "The run succeeded.",
        "Not promoted: 0.7",
        "  [low]",
        "report  gs://r",
    ]


@pytest.mark.parametrize(
    ("verdict", "headline", "exit_code"),
    [
        (PROMOTED, "Promoted.", 0),
        (UNCHANGED, "Unchanged: the model is the champion already.", 0),
        (REJECTED, "Not promoted.", 3),
        ("undecided", "Undecided: the pictures do not show which model is better", 3),
        (UNKNOWN, "The verdict is unknown: the gate's log is gone", 3),
    ],
)
def test_gate_result_without_a_log_has_a_fixed_headline(
    verdict: str, headline: str, exit_code: int
) -> None:
    gate = GateResult(verdict=verdict)

    assert printed(gate)[1].startswith(headline)
    assert RunResult(run_id="r", state="SUCCEEDED", failures=(), gate=gate).exit_code == exit_code


@pytest.mark.parametrize(
    ("state", "exit_code"), [("SUCCEEDED", 0), ("FAILED", 1), ("CANCELED", 1), ("SKIPPED", 1)]
)
def test_exit_code_of_a_run_without_a_gate_is_its_state(state: str, exit_code: int) -> None:
    assert RunResult(run_id="r", state=state, failures=(), gate=None).exit_code == exit_code
