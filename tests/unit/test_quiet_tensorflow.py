import os
import subprocess
import sys

import pytest

from repot.quiet_tensorflow import _filter_stderr

LOG_LEVEL = "TF_CPP_MIN_LOG_LEVEL"
START = "from repot.quiet_tensorflow import import_tensorflow; import_tensorflow()"


def run(program: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != LOG_LEVEL}
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )


def test_import_prints_nothing_and_leaves_devices_configurable() -> None:
    done = run(
        f"{START}\nimport tensorflow as tf, keras\n"
        "cpu = tf.config.list_physical_devices('CPU')[0]\n"
        "halves = [tf.config.LogicalDeviceConfiguration()] * 2\n"
        "tf.config.set_logical_device_configuration(cpu, halves)\n"
        "print(len(tf.config.list_logical_devices('CPU')), keras.backend.backend())"
    )

    assert (done.stdout, done.stderr) == ("2 tensorflow\n", "")


@pytest.mark.parametrize("switch", ["enable", "disable"])
def test_import_sets_its_objects_apart_from_garbage(switch: str) -> None:
    done = run(
        f"import gc\ngc.{switch}()\n{START}\nprint(gc.isenabled(), gc.get_freeze_count() > 100_000)"
    )

    assert done.stdout == f"{switch == 'enable'} True\n"


def test_error_message_is_not_filtered(capfd: pytest.CaptureFixture[str]) -> None:
    with _filter_stderr():
        os.write(
            2,
            b"I0000 00:00:1 9 a.cc:1] hello\n"
            b"E0000 00:00:1 9 b.cc:1] disk on fire\n"
            b"W0000 00:00 c.cc] hm\n",
        )

    assert capfd.readouterr().err == "E0000 00:00:1 9 b.cc:1] disk on fire\n"


def test_message_before_an_exception_is_not_lost(capfd: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        with _filter_stderr():
            os.write(2, b"why it failed\n")
            raise ImportError

    with pytest.raises(ImportError):
        fail()

    assert capfd.readouterr().err == "why it failed\n"
