"""TensorFlow without its chatter: what its C++ says while it is imported, and about machines without a GPU.

`TF_CPP_MIN_LOG_LEVEL` alone no longer helps: TensorFlow 2.21 writes to the error stream before it reads the variable
(https://github.com/tensorflow/tensorflow/issues/100442).
"""

import contextlib
import importlib
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from typing import BinaryIO

# The lines of absl's log below ERROR, its warning about itself, the second line of the note on CPU instructions, and
# what a machine without a CUDA driver (error 303) says when it is asked for its GPUs.
_CHATTER = re.compile(
    rb"[IW]\d{4} |WARNING: All log messages before absl|To enable the following instructions:"
    rb"|E\d{4} .*failed call to cuInit: .*\(303\)"
)
_STDERR = 2


def import_tensorflow() -> None:
    """Import TensorFlow and Keras, hiding what they have to say at that; whatever else is written meanwhile is kept.

    No device is set up yet, so that strategies and virtual devices can still be chosen. An environment variable that
    is set already stays as it is, but for the backend of Keras.
    """
    if "tensorflow" in sys.modules:
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ["KERAS_BACKEND"] = "tensorflow"
    with _without_chatter():
        importlib.import_module("keras")
        importlib.import_module("tensorflow").config.list_physical_devices("GPU")


@contextlib.contextmanager
def _without_chatter() -> Iterator[None]:
    """Collect this process's error stream, and pass on afterwards what is no chatter."""
    sys.stderr.flush()
    stream = os.dup(_STDERR)
    with tempfile.TemporaryFile() as collected:
        os.dup2(collected.fileno(), _STDERR)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(stream, _STDERR)
            os.close(stream)
            _pass_on(collected)


def _pass_on(collected: BinaryIO) -> None:
    collected.seek(0)
    for line in collected:
        if not _CHATTER.match(line):
            os.write(_STDERR, line)
