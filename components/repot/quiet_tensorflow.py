"""Import TensorFlow without the messages that its C++ code prints on import and without a GPU.

`TF_CPP_MIN_LOG_LEVEL` is not enough: TensorFlow 2.21 writes to stderr before it reads the variable
(https://github.com/tensorflow/tensorflow/issues/100442).
"""

import contextlib
import functools
import gc
import importlib
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from typing import BinaryIO

# Lines of absl's log below ERROR, absl's warning about itself, the second line of the message about
# CPU instructions, and the error for a machine without a CUDA driver (303).
_NOISE = re.compile(
    rb"[IW]\d{4} |WARNING: All log messages before absl|To enable the following instructions:"
    rb"|E\d{4} .*failed call to cuInit: .*\(303\)"
)
_STDERR = 2


def import_tensorflow() -> None:
    """Import TensorFlow and Keras without their messages; other output to stderr is kept.

    Devices are not initialised, so strategies and virtual devices can still be configured. Sets
    KERAS_BACKEND, and TF_CPP_MIN_LOG_LEVEL unless it is set already.
    """
    preload_tensorflow()
    _find_devices()


def preload_tensorflow() -> None:
    """Import TensorFlow and Keras only; a process may do this before it forks."""
    if "tensorflow" in sys.modules:
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ["KERAS_BACKEND"] = "tensorflow"
    # Modules are no garbage. Looking for it takes a quarter of the time of the import, and more
    # later if the half a million objects of these modules are not set apart.
    is_collecting = gc.isenabled()
    gc.disable()
    try:
        with _filter_stderr():
            importlib.import_module("keras")
            importlib.import_module("tensorflow")
        gc.freeze()
    finally:
        if is_collecting:
            gc.enable()


@functools.cache
def _find_devices() -> None:
    with _filter_stderr():  # messages about a missing driver
        sys.modules["tensorflow"].config.list_physical_devices("GPU")


@contextlib.contextmanager
def _filter_stderr() -> Iterator[None]:
    """Collect what this process writes to stderr, and write it at the end without the noise."""
    sys.stderr.flush()
    # C++ code writes to the file descriptor, so redirecting sys.stderr would not catch it.
    stream = os.dup(_STDERR)
    with tempfile.TemporaryFile() as collected:
        os.dup2(collected.fileno(), _STDERR)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(stream, _STDERR)
            os.close(stream)
            _write_filtered(collected)


def _write_filtered(collected: BinaryIO) -> None:
    collected.seek(0)
    for line in collected:
        if not _NOISE.match(line):
            os.write(_STDERR, line)
