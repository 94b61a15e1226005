import json
from types import SimpleNamespace

import pytest
import tensorflow as tf

from repot.trainer.strategy import choose_strategy, is_chief


def test_single_process_is_its_own_chief() -> None:
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
def test_one_worker_of_several_is_the_chief(
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
def test_one_worker_needs_no_cluster(cluster: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TF_CONFIG", cluster)

    assert not isinstance(choose_strategy(), tf.distribute.MultiWorkerMirroredStrategy)
