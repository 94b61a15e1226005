"""The optional packages, and how messages say that one of them must be installed.

repot is on no package index, so no command may ask one for it: whoever claims the name there would
decide what is installed. The commands name a checkout, or the optional package itself. See
docs/installation.md.
"""

from collections.abc import Iterable
from importlib.util import find_spec

from repot.errors import UsageError, advise

DISTRIBUTION = "repot"
"""Name of the installed distribution; never ask a package index for it."""

EXTRAS = {
    "beam": ("apache-beam>=2.70,<3",),
    "docker": ("docker>=7",),
    "heif": ("pi-heif>=1.0",),
    "hub": ("keras-hub>=0.32,<0.33",),
    "litert": ("ai-edge-litert>=2.1,<3",),
    "mlflow": ("mlflow-skinny>=3.1,<4",),
    "onnx": ("onnxruntime>=1.23", "tf2onnx>=1.17,<2"),
    "s3": ("boto3>=1.36",),
    "signing": ("model-signing>=1.1,<2", "pyopenssl>=24"),
}
"""What each extra installs, by its name; the same as in pyproject.toml."""

EXPORT_FORMATS = {
    "saved_model": "",
    "litert": "litert",
    "litert-int8": "litert",
    "onnx": "onnx",
    "keras": "",
}
"""Formats that a model can be exported to, and the extra that each needs; "" for none."""

_MODULES = {"litert": ("ai_edge_litert",), "onnx": ("onnx", "onnxruntime", "tf2onnx")}


def install_command(extra: str) -> str:
    """Return the command that installs an extra in a checkout, and the one without a checkout."""
    packages = " ".join(f"'{package}'" for package in EXTRAS[extra])
    return f"`make venv EXTRAS={extra}`, or without a checkout `python -m pip install {packages}`"


def check_export_formats(formats: Iterable[str]) -> None:
    """Check that the packages are installed that write and read these formats.

    Args:
        formats: Keys of EXPORT_FORMATS.

    Raises:
        UsageError: One message per extra that is missing.
    """
    problems = []
    for extra in dict.fromkeys(EXPORT_FORMATS[name] for name in formats):
        missing = [name for name in _MODULES.get(extra, ()) if find_spec(name) is None]
        if missing:
            advice = advise(
                on_machine=f"Run {install_command(extra)}.",
                in_pod="Use a cpu_image with it: see docs/deploy.md.",
            )
            needing = " and ".join(name for name in formats if EXPORT_FORMATS[name] == extra)
            problems.append(
                f"Exports to {needing} must find the packages of the extra {extra}; "
                f"{' and '.join(missing)} cannot be imported. {advice}"
            )
    if problems:
        raise UsageError(problems)
