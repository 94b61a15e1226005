"""Check the installation: Python, packages, TensorFlow, the compiled pipeline and weights."""

import hashlib
import importlib.metadata
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repot import checkpoints
from repot.errors import RepotError, UsageError
from repot.extras import DISTRIBUTION
from repot_pipelines.compiled import find_compiled, read_pipeline
from repot_pipelines.doctor.results import CheckResult, ok, problem, problem_from_error, warning
from repot_pipelines.presets import PRESETS

_REPORTED_PACKAGES = (
    "repot",
    "kfp",
    "kfp-kubernetes",
    "tensorflow",
    "tensorflow-cpu",
    "keras",
    "kubernetes",
)
_SAME_RELEASE = ("kfp", "kfp-kubernetes")
# Distributions that provide the same modules.
_ALTERNATIVES = {"tensorflow": "tensorflow-cpu"}
_REINSTALL = "In a checkout, run `make clean compile`; otherwise install repot's wheel again."

_IMPORT_SECONDS = 60
_IMPORT_TENSORFLOW = "import tensorflow as tf; print(len(tf.config.list_physical_devices('GPU')))"


@dataclass(frozen=True, kw_only=True, slots=True)
class InstalledPipeline:
    """The compiled pipeline that comes with the installation.

    Attributes:
        check: Whether it exists and can be read.
        defaults: Default by parameter name; empty if it cannot be read.
    """

    check: CheckResult
    defaults: Mapping[str, Any]

    @property
    def container_images(self) -> list[tuple[str, str]]:
        """Return the default container images as (name, image reference) pairs."""
        return [
            (name.replace("_", " "), str(default))
            for name, default in sorted(self.defaults.items())
            if name.endswith("_image")
        ]


def check_python(supported: str) -> CheckResult:
    """Check that repot supports this version of Python.

    Args:
        supported: Requires-Python of the distribution, e.g. ">=3.11,<3.14".
    """
    from packaging.specifiers import SpecifierSet

    version = platform.python_version()
    if version in SpecifierSet(supported):
        return ok("Python", f"{version}, {sys.executable}")
    return problem(
        "Python",
        f"{version} at {sys.executable}; repot needs {supported}.",
        "Create a virtual environment with a supported Python, and install repot there.",
    )


def installed_versions() -> dict[str, str]:
    """Return the version of every installed distribution by canonical name."""
    from packaging.utils import canonicalize_name

    return {
        canonicalize_name(found.name): found.version
        for found in importlib.metadata.distributions()
        if found.name
    }


def check_packages(requirements: Iterable[str], installed: Mapping[str, str]) -> CheckResult:
    """Check that the installed packages meet the requirements of repot.

    Args:
        requirements: Requires-Dist of the distribution, e.g. "kfp<2.18,>=2.17".
        installed: Version by canonical name.
    """
    reasons = {text: _mismatch(text, installed) for text in requirements}
    mismatches = [reason for reason in reasons.values() if reason]
    packages = [_without_marker(text) for text, reason in reasons.items() if reason]
    pair = [installed.get(name, "") for name in _SAME_RELEASE]
    if all(pair) and _minor_release(pair[0]) != _minor_release(pair[1]):
        mismatches.append(
            f"{' and '.join(_SAME_RELEASE)} have different releases, {' and '.join(pair)}"
        )
        packages.append(f"{_SAME_RELEASE[1]}=={_minor_release(pair[0])}.*")
    if mismatches:
        return problem(
            "packages",
            f"{'; '.join(mismatches)}.",
            # Not repot itself, which is on no package index.
            shlex.join([sys.executable, "-m", "pip", "install", *packages]),
        )
    versions = [f"{name} {installed[name]}" for name in _REPORTED_PACKAGES if name in installed]
    return ok("packages", ", ".join(versions))


def check_tensorflow() -> CheckResult:
    """Check that TensorFlow can be imported, in a subprocess: a wrong build kills the process."""
    try:
        ended = subprocess.run(  # noqa: S603 - a constant program in this interpreter
            [sys.executable, "-P", "-c", _IMPORT_TENSORFLOW],
            capture_output=True,
            text=True,
            timeout=_IMPORT_SECONDS,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        return warning(
            "TensorFlow",
            f"Importing it takes more than {_IMPORT_SECONDS} s.",
            "Check for a slow or overloaded disk; `repot run` imports it several times.",
        )
    return read_tensorflow_import(ended.returncode, ended.stdout, ended.stderr)


def read_tensorflow_import(return_code: int, output: str, errors: str) -> CheckResult:
    """Interpret how the subprocess that imports TensorFlow ended.

    Args:
        return_code: Its exit status; negative for a signal.
        output: Its standard output; the last word is the number of GPUs.
        errors: Its standard error.
    """
    if return_code == 0:
        num_gpus = int(output.rsplit(maxsplit=1)[-1])
        return ok(
            "TensorFlow",
            f"imported; {num_gpus or 'no'} GPU{'s' if num_gpus > 1 else ''} visible",
        )
    if return_code < 0:
        return problem(
            "TensorFlow",
            f"Importing it kills the process with signal {-return_code}.",
            "This processor may lack AVX, which the official TensorFlow builds need: use another "
            "machine, or a cluster.",
        )
    last_line = (errors.strip().splitlines() or ["no reason reported"])[-1]
    return problem(
        "TensorFlow",
        f"It cannot be imported: {last_line.rstrip('.')}.",
        shlex.join(
            [sys.executable, "-m", "pip", "install", "--force-reinstall", _required("tensorflow")]
        ),
    )


def read_installed_pipeline() -> InstalledPipeline:
    """Read the compiled pipeline that `repot submit` uploads."""
    import yaml

    from repot_pipelines.parameters import read_parameters, with_defaults

    try:
        path = find_compiled()
        pipeline = read_pipeline(path)
        defaults = with_defaults({}, pipeline)
        num_fields = len(read_parameters(pipeline))
        finding = f"{pipeline['pipelineInfo']['name']} with {num_fields} parameters, {path}"
    except RepotError as err:
        return InstalledPipeline(
            check=problem_from_error("pipeline", err, fix=_REINSTALL), defaults={}
        )
    except (OSError, ValueError, KeyError, TypeError, StopIteration, yaml.YAMLError) as err:
        finding = f"{path} cannot be read: {type(err).__name__}."
        return InstalledPipeline(check=problem("pipeline", finding, _REINSTALL), defaults={})
    return InstalledPipeline(check=ok("pipeline", finding), defaults=defaults)


def check_weights() -> CheckResult:
    """Check that the weights `repot run` starts from are installed and have the right checksum."""
    backbone = PRESETS["laptop"]["backbone"]
    try:
        source = checkpoints.resolve_source(checkpoints.DEFAULT, backbone=backbone)
        data = Path(source.uri).read_bytes()
    except (ImportError, OSError, UsageError) as err:
        return problem(
            "weights", f"The weights of {backbone} are not installed: {err}.", _REINSTALL
        )
    if hashlib.sha256(data).hexdigest() != source.sha256:
        return problem(
            "weights", f"{source.uri} is damaged: its SHA-256 must be {source.sha256}.", _REINSTALL
        )
    return ok("weights", f"{source.name} for {backbone}, {len(data) / 1e6:.0f} MB, checksum ok")


def _mismatch(text: str, installed: Mapping[str, str]) -> str:
    """Return why a requirement is not met; "" if it is met or belongs to an extra."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    requirement = Requirement(text)
    if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
        return ""
    name = canonicalize_name(requirement.name)
    version = installed.get(name) or installed.get(_ALTERNATIVES.get(name, ""))
    if version is None:
        return f"{name} is missing"
    if not requirement.specifier.contains(version, prereleases=True):
        return f"{name} is {version} and must be {requirement.specifier}"
    return ""


def _required(name: str) -> str:
    """Return repot's requirement of a package, e.g. "tensorflow<2.22,>=2.21"."""
    from packaging.requirements import Requirement

    texts = importlib.metadata.requires(DISTRIBUTION) or []
    return next((text for text in texts if Requirement(text).name == name), name)


def _without_marker(text: str) -> str:
    from packaging.requirements import Requirement

    requirement = Requirement(text)
    requirement.marker = None
    return str(requirement)


def _minor_release(version: str) -> str:
    return ".".join(version.split(".")[:2])
