import json
from types import SimpleNamespace

import pytest
import tensorflow as tf

from repot.settings import TrainingSettings
from repot.trainer.strategy import (
    STEPS_PER_CALL,
    check_same_state,
    choose_computation,
    choose_strategy,
    is_chief,
    make_deterministic,
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


@pytest.mark.parametrize(
    ("capabilities", "precision"),
    [
        ([], "float32"),
        ([(6, 1)], "float32"),
        ([(7, 0)], "float16"),
        ([(7, 5)], "float16"),
        ([(8, 0)], "bfloat16"),
        ([(9, 0), (9, 0)], "bfloat16"),
        ([(9, 0), (7, 5)], "float16"),
    ],
)
def test_precision_and_compiler_suit_the_devices(
    capabilities: list[tuple[int, int]], precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        tf.config, "list_physical_devices", lambda kind=None: list(range(len(capabilities)))
    )
    monkeypatch.setattr(
        tf.config.experimental,
        "get_device_details",
        lambda device: {"compute_capability": capabilities[device]},
    )
    strategy = SimpleNamespace(num_replicas_in_sync=max(1, len(capabilities)))

    found = choose_computation(TrainingSettings(), strategy)

    assert found.precision == precision
    assert found.uses_xla == (len(capabilities) == 1)
    assert found.steps_per_call == (STEPS_PER_CALL if capabilities else 1)
    repeatable = choose_computation(TrainingSettings(deterministic=True), strategy)
    assert not repeatable.uses_xla
    chosen = choose_computation(
        TrainingSettings(precision="float32", xla="on", gradient_accumulation=4), strategy
    )
    assert (chosen.precision, chosen.uses_xla, chosen.num_parts) == ("float32", True, 4)


def test_deterministic_steps_keep_the_order_of_additions() -> None:
    make_deterministic()

    assert tf.config.optimizer.get_experimental_options()["arithmetic_optimization"] is False
