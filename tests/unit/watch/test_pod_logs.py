from repot_pipelines.watch.pod_logs import log_tail

LOG = """I0301 02:00:00.1 1 launcher_v2.go:151] PipelineRoot defaults
time="2026-03-01" level=info msg="capturing logs"
[KFP Executor 2026-03-01 INFO]: Looking for component `train`
I0301 02:00:00.1 1 launcher_v2.go:151] input: {
  "inputs": {
    "parameterValues": {"seed": 0}
  }
}
train: gs://repot/datasets/1/train-00000 must have the bytes of its receipt; got others.
Build it again: delete the shard.

time=2026-03-01T02:00:01.109Z level=INFO msg="sub-process exited" error="exit status 1" argo=true
Error: exit status 1
F0301 02:00:01.1 1 main.go:54] failed to execute component: exit status 1
"""


def test_log_tail_drops_the_lines_of_kfp_and_argo() -> None:
    assert log_tail(LOG) == (
        "train: gs://repot/datasets/1/train-00000 must have the bytes of its receipt; got others.\n"
        "Build it again: delete the shard."
    )


def test_log_tail_keeps_the_last_error_of_the_launcher() -> None:
    error = (
        "F0301 02:00:01.1 1 main.go:59] failed to execute component: "
        "Failed to open bucket: secrets is forbidden"
    )

    assert log_tail(f"{LOG}{error}\n").endswith(f"Build it again: delete the shard.\n{error}")


def test_log_tail_has_a_maximum_number_of_lines() -> None:
    assert log_tail("\n".join(map(str, range(100))), num_lines=2) == "98\n99"
