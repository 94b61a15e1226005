"""The optional packages, and how messages say that one of them must be installed.

repot is on no package index, so no command may ask one for it: whoever claims the name there would
decide what is installed. The commands name a checkout, or the optional package itself. See
docs/installation.md.
"""

DISTRIBUTION = "repot"
"""Name of the installed distribution; never ask a package index for it."""

EXTRAS = {
    "docker": "docker>=7",
    "heif": "pi-heif>=1.0",
    "hub": "keras-hub>=0.32,<0.33",
    "mlflow": "mlflow-skinny>=3.1,<4",
    "s3": "boto3>=1.36",
}
"""What each extra installs, by its name; the same as in pyproject.toml."""


def install_command(extra: str) -> str:
    """Return the command that installs an extra in a checkout, and the one without a checkout."""
    package = EXTRAS[extra]
    return f"`make venv EXTRAS={extra}`, or without a checkout `python -m pip install '{package}'`"
