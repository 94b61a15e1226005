"""The presets: `cluster` has the compiled pipeline's defaults, `laptop` those of `repot run`."""

from repot.settings import PARAMETERS, ParameterValues, parameter_default

DEFAULTS: ParameterValues = {
    name: parameter_default(field)
    for name, field in PARAMETERS.items()
    if parameter_default(field) is not None
}
"""The default of every pipeline parameter that has one."""

PRESETS: dict[str, ParameterValues] = {
    "cluster": DEFAULTS,
    "laptop": {
        **DEFAULTS,
        "backbone": "efficientnet_lite0",
        "recipe": "head",
        "builder_pods": 1,
    },
}
