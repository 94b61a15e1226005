import json

from repot.trainer.job.worker import make_tf_config


def test_tf_config_lists_all_workers_and_the_own_index() -> None:
    assert json.loads(make_tf_config(["a:2222", "b:2222"], 1)) == {
        "cluster": {"worker": ["a:2222", "b:2222"]},
        "task": {"type": "worker", "index": 1},
    }
