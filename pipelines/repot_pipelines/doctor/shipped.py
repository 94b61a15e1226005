"""What comes with the installation: the compiled pipeline with its defaults, and the packaged weights."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repot import checkpoints
from repot.errors import RepotError, UsageError
from repot_pipelines.compiled import find_compiled
from repot_pipelines.doctor.check import Check, failed, ok, problem
from repot_pipelines.presets import PRESETS

_INSTALL_AGAIN = (
    "Install repot again: `pip install --force-reinstall repot`; in a checkout, `repot compile`."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Shipped:
    """The compiled pipeline.

    Attributes:
        check: Whether it is there and can be read.
        defaults: The defaults of its parameters by name; empty where it cannot be read.
    """

    check: Check
    defaults: Mapping[str, Any]

    @property
    def images(self) -> list[tuple[str, str]]:
        """Return what each container image is for, and its name."""
        return [
            (name.replace("_", " "), str(default))
            for name, default in sorted(self.defaults.items())
            if name.endswith("_image")
        ]


def read_shipped() -> Shipped:
    """Return the compiled pipeline that `repot submit` uploads."""
    import yaml

    from repot_pipelines.parameters import read_parameters, read_pipeline

    try:
        path = find_compiled()
        pipeline = read_pipeline(path)
        parameters = read_parameters(pipeline)
        finding = f"{pipeline['pipelineInfo']['name']} with {len(parameters)} parameters, {path}"
    except RepotError as err:
        return Shipped(check=failed("pipeline", err, fix=_INSTALL_AGAIN), defaults={})
    except (OSError, ValueError, KeyError, TypeError, StopIteration, yaml.YAMLError) as err:
        finding = f"{path} cannot be read: {type(err).__name__}."
        return Shipped(check=problem("pipeline", finding, _INSTALL_AGAIN), defaults={})
    defaults = {
        name: found.default for name, found in parameters.items() if found.default is not None
    }
    return Shipped(check=ok("pipeline", finding), defaults=defaults)


def check_weights() -> Check:
    """Return whether the weights that `repot run` starts from are installed, and are the right bytes."""
    backbone = PRESETS["laptop"]["backbone"]
    try:
        source = checkpoints.find_source(checkpoints.DEFAULT, backbone=backbone)
        data = Path(source.uri).read_bytes()
    except (ImportError, OSError, UsageError) as err:
        return problem("weights", f"Those of {backbone} are not installed: {err}.", _INSTALL_AGAIN)
    if hashlib.sha256(data).hexdigest() != source.sha256:
        return problem(
            "weights",
            f"{source.uri} is damaged: its SHA-256 must be {source.sha256}.",
            _INSTALL_AGAIN,
        )
    return ok("weights", f"{source.name} for {backbone}, {len(data) / 1e6:.0f} MB, checksum right")
