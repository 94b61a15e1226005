import json
from types import SimpleNamespace

import pytest
import tensorflow as tf

from repot.trainer.strategy import (
    check_same_state,
    choose_strategy,
    is_chief,
    wait_for_all,
)


def test_single_process_is_the_chief() -> None:
    assert is_chief(tf.distribute.get_strategy())


@pytest.mark.parametrize(
    ("cluster", "task_type", "task_id", "expected"),
    [
        ({"worker": ["a:1", "b:1"]}, "worker", 0, True),
        ({"worker": ["a:1", "b:1"]}, "worker", 1, False),
        ({"chief": ["c:1"], "worker": ["a:1"]}, "chief", 0, True),
        ({"chief": ["c:1"], "worker": ["a:1"]}, "worker", 0, False),
    ],
)
def test_exactly_one_of_several_workers_is_the_chief(
    cluster: dict[str, list[str]],
    task_type: str,
    task_id: int,
    *,
    expected: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(
        "TF_CONFIG", json.dumps({"cluster": cluster, "task": {"type": task_type, "index": task_id}})
    )
    strategy = SimpleNamespace(
        cluster_resolver=tf.distribute.cluster_resolver.TFConfigClusterResolver()
    )

    assert is_chief(strategy) == expected


@pytest.mark.parametrize("cluster", ["", "{}", '{"cluster": {"worker": ["a:1"]}}'])
def test_single_worker_gets_no_multi_worker_strategy(
    cluster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TF_CONFIG", cluster)

    assert not isinstance(choose_strategy(), tf.distribute.MultiWorkerMirroredStrategy)


def test_single_process_agrees_with_itself_and_waits_for_nobody() -> None:
    strategy = tf.distribute.get_strategy()

    check_same_state(strategy, "head-00003.npz")
    wait_for_all(strategy)
