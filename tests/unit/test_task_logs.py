"""Logs in the form of KFP 2.17 and Argo 4: only what a task wrote is left."""

import pytest

from repot_pipelines.task_logs import LocalLogFilter, LogFilter, log_tail

EXECUTOR_INPUT = """[KFP Executor 2026-11-24 00:06:50,270 INFO]: Got executor_input:
{
    "inputs": {
        "parameterValues": {
            "storage_uri": "s3://repot/here",
            "nested": false,
            "trainer_tolerations": [
                1,
                "text",
                {}
            ]
        }
    },
    "outputs": {
        "outputFile": "/tmp/kfp_outputs/output_metadata.json"
    }
}
"""
POD_LOG = f"""time=2026-11-24T00:06:48.109Z level=INFO msg="capturing logs" argo=true
I1124 00:06:48.812345      22 main.go:67] Setting log level to: '1'
I1124 00:06:48.912345      22 launcher_v2.go:134] launcher info:
executorInput={{
  "inputs": {{
    "parameterValues": {{
      "seed": 0
    }}
  }}
}}
[KFP Executor 2026-11-24 00:06:50,268 INFO]: Looking for component `train` in --component_module_\
path `/tmp/tmp.4GXi/ephemeral_component.py`
[KFP Executor 2026-11-24 00:06:50,269 INFO]: Loading KFP component "train" from /tmp/tmp.4GXi/e.py \
(directory "/tmp/tmp.4GXi" and module name "ephemeral_component")
{EXECUTOR_INPUT}[KFP Executor 2026-11-24 00:06:50,600 INFO]: train: started
[KFP Executor 2026-11-24 00:06:51,000 WARNING]: the epoch took long
  label       precision@1
  [daisy]     0.90
"quoted" is a label
[KFP Executor 2026-11-24 00:06:52,000 INFO]: result: {{"training_id": "0123456789abcdef"}}
[KFP Executor 2026-11-24 00:06:52,600 INFO]: Wrote executor output file to /tmp/kfp_outputs/o.json.
I1124 00:06:52.812345      22 launcher_v2.go:1230] ExecutorOutput: {{
  "artifacts": {{
    "model": {{}}
  }}
}}
W1124 00:06:52.912345      22 launcher_v2.go:827] Local filepath "/s3/repot/x" does not exist
I1124 00:06:53.012345      22 launcher_v2.go:206] publish success.
time=2026-11-24T00:06:53.109Z level=INFO msg="sub-process exited" argo=true error=<nil>
"""
TASK_LINES = [
    "train: started",
    "warning: the epoch took long",
    "  label       precision@1",
    "  [daisy]     0.90",
    '"quoted" is a label',
]
FAILED_LOG = f"""{EXECUTOR_INPUT}train: gs://repot/1/train-00000 must have the bytes of its receipt.
Build it again: delete the shard.

E1124 00:06:52.7      22 launcher_v2.go:449] Component failed to execute successfully: exit status 1
I1124 00:06:53.0      22 launcher_v2.go:206] publish success.
F1124 00:06:53.1      22 main.go:59] failed to execute component: exit status 1
time=2026-03-01T02:00:01.109Z level=INFO msg="sub-process exited" error="exit status 1" argo=true
Error: exit status 1
"""
LOCAL_LOG = """16:24:25.209 - INFO - Running pipeline: 'repot-finetune'
--------------------------------------------------------------------------------
16:24:25.216 - INFO - Executing task '\x1b[96mbuild-shards\x1b[0m'
16:24:25.216 - INFO - Streamed logs:

    [KFP Executor 2026-11-27 16:24:25,271 INFO]: Got executor_input:
    {
        "inputs": {
            "parameterValues": {
                "nested": false
            }
        }
    }
    [KFP Executor 2026-11-27 16:24:25,552 INFO]: build shards: started
    [KFP Executor 2026-11-27 16:24:25,652 INFO]: train-00000-of-00001: 92 records
    plain output

16:24:25.639 - INFO - Task '\x1b[96mbuild-shards\x1b[0m' finished with status SUCCESS
16:24:25.639 - INFO - Task 'build-shards' outputs:
    dataset: Dataset( name='dataset',
                      metadata={} )
--------------------------------------------------------------------------------
Traceback (most recent call last):
  File "child.py", line 209, in <module>
"""


def test_only_the_lines_of_the_task_are_left() -> None:
    assert list(LogFilter().read(POD_LOG.splitlines())) == TASK_LINES


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_log_in_parts_gives_the_same_lines(size: int) -> None:
    log_filter, lines = LogFilter(), POD_LOG.splitlines()
    parts = [lines[start : start + size] for start in range(0, len(lines), size)]

    assert [line for part in parts for line in log_filter.read(part)] == TASK_LINES


def test_document_that_breaks_off_hides_no_later_line() -> None:
    log = EXECUTOR_INPUT.splitlines()[:5]

    assert list(LogFilter().read([*log, "Killed", "{'a': 1}", "more"])) == [
        "Killed",
        "{'a': 1}",
        "more",
    ]


def test_lines_of_a_local_run_have_the_name_of_their_task() -> None:
    assert list(LocalLogFilter().read(LOCAL_LOG.splitlines())) == [
        "build shards: started",
        "build shards: train-00000-of-00001: 92 records",
        "build shards: plain output",
    ]


def test_log_tail_drops_the_lines_of_kfp_and_argo() -> None:
    assert log_tail(FAILED_LOG) == (
        "train: gs://repot/1/train-00000 must have the bytes of its receipt.\n"
        "Build it again: delete the shard."
    )


def test_log_tail_keeps_the_last_error_of_the_launcher() -> None:
    error = (
        "F0301 02:00:01.1 1 main.go:59] failed to execute component: "
        "Failed to open bucket: secrets is forbidden"
    )

    assert log_tail(f"{FAILED_LOG}{error}\n").endswith(f"delete the shard.\n{error}")


def test_log_tail_has_a_maximum_number_of_lines() -> None:
    assert log_tail("\n".join(map(str, range(100))), num_lines=2) == "98\n99"
