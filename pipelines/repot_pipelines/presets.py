"""The presets: `cluster` has the compiled pipeline's defaults, `laptop` those of `repot run`."""

from typing import Any

from repot.settings import PARAMETERS, parameter_default

DEFAULTS: dict[str, Any] = {
    name: parameter_default(field)
    for name, field in PARAMETERS.items()
    if parameter_default(field) is not None
}
"""The default of every pipeline parameter that has one."""

PRESETS: dict[str, dict[str, Any]] = {
    "cluster": DEFAULTS,
    "laptop": {
        **DEFAULTS,
        "backbone": "efficientnet_lite0",
        "recipe": "head",
        "builder_pods": 1,
    },
}
