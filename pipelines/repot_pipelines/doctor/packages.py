"""The installed packages: whether they fit what repot asks for, and whether TensorFlow starts."""

import subprocess
import sys
from collections.abc import Iterable, Mapping

from repot_pipelines.doctor.check import Check, ok, problem, warning

DISTRIBUTION = "repot"
_TOLD = ("repot", "kfp", "kfp-kubernetes", "tensorflow", "tensorflow-cpu", "keras", "kubernetes")
_SAME_VERSION = ("kfp", "kfp-kubernetes")
# Packages that bring the same modules.
_STAND_INS = {"tensorflow": "tensorflow-cpu"}
_START_SECONDS = 60
_START = "import tensorflow as tf; print(len(tf.config.list_physical_devices('GPU')))"


def installed_versions() -> dict[str, str]:
    """Return the version of every installed distribution, by its name as PyPI compares it."""
    from importlib.metadata import distributions

    from packaging.utils import canonicalize_name

    return {canonicalize_name(found.name): found.version for found in distributions() if found.name}


def check_packages(requirements: Iterable[str], installed: Mapping[str, str]) -> Check:
    """Return whether the installed packages are those that repot asks for.

    Args:
        requirements: What the distribution asks for, as its metadata spell it.
        installed: Versions by name.
    """
    misfits = [misfit for text in requirements if (misfit := _misfit(text, installed))]
    pair = [installed.get(name, "") for name in _SAME_VERSION]
    if all(pair) and _minor(pair[0]) != _minor(pair[1]):
        misfits.append(
            f"{' and '.join(_SAME_VERSION)} are of different releases, {' and '.join(pair)}"
        )
    if misfits:
        return problem(
            "packages",
            f"{'; '.join(misfits)}.",
            f"{sys.executable} -m pip install --upgrade {DISTRIBUTION}",
        )
    return ok(
        "packages", ", ".join(f"{name} {installed[name]}" for name in _TOLD if name in installed)
    )


def check_tensorflow() -> Check:
    """Return whether TensorFlow can be imported, in a process of its own: a wrong build ends the process."""
    try:
        ended = subprocess.run(  # noqa: S603 - our own words in our own interpreter
            [sys.executable, "-c", _START],
            capture_output=True,
            text=True,
            timeout=_START_SECONDS,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        return warning(
            "TensorFlow",
            f"It takes more than {_START_SECONDS} s to start.",
            "Look for a slow or overloaded disk; `repot run` starts it several times.",
        )
    return read_start(ended.returncode, ended.stdout, ended.stderr)


def read_start(return_code: int, output: str, errors: str) -> Check:
    """Return what the end of a process that imports TensorFlow says."""
    if return_code == 0:
        num_gpus = int(output.rsplit(maxsplit=1)[-1])
        return ok(
            "TensorFlow",
            f"starts, and sees {num_gpus or 'no'} GPU{'s' if num_gpus > 1 else ''} here",
        )
    if return_code < 0:
        return problem(
            "TensorFlow",
            f"Importing it ends the process with signal {-return_code}.",
            "This processor may lack AVX, which TensorFlow's own builds need: use another machine, or a cluster.",
        )
    last = (errors.strip().splitlines() or ["no reason told"])[-1]
    return problem(
        "TensorFlow",
        f"It cannot be imported: {last.rstrip('.')}.",
        f"{sys.executable} -m pip install --force-reinstall tensorflow",
    )


def _misfit(text: str, installed: Mapping[str, str]) -> str:
    """Return why a requirement is not met; "" if it is, or if nobody asked for its extra."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    requirement = Requirement(text)
    if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
        return ""
    name = canonicalize_name(requirement.name)
    version = installed.get(name) or installed.get(_STAND_INS.get(name, ""))
    if version is None:
        return f"{name} is missing"
    if not requirement.specifier.contains(version, prereleases=True):
        return f"{name} is {version} and must be {requirement.specifier}"
    return ""


def _minor(version: str) -> list[str]:
    return version.split(".")[:2]
