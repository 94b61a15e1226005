"""The presets: `cluster` has the compiled pipeline's defaults, `laptop` those of `repot run`."""

from repot.settings import DEFAULTS, ParameterValues

PRESETS: dict[str, ParameterValues] = {
    "cluster": DEFAULTS,
    "laptop": {
        **DEFAULTS,
        "backbone": "efficientnet_lite0",
        "builder_pods": 1,
    },
}
