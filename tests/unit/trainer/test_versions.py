"""The versions that a training records."""

import pytest
import tensorflow as tf

from repot.trainer import run_training


@pytest.mark.parametrize("has_gpu", [False, True])
def test_versions_of_cuda_are_recorded_where_a_gpu_trains(
    monkeypatch: pytest.MonkeyPatch, *, has_gpu: bool
) -> None:
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda _: ["gpu"] if has_gpu else [])
    build = {"cuda_version": "12.5.1", "cudnn_version": "9", "is_cuda_build": True}
    monkeypatch.setattr(tf.sysconfig, "get_build_info", lambda: build)

    versions = run_training._versions()

    assert {"repot", "tensorflow", "keras", "python"} <= versions.keys()
    assert ("cuda" in versions) == has_gpu
    assert versions.get("cuda", "12.5.1") == "12.5.1"
