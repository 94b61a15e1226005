"""Settings of the services that hear about a run: how they reach a task."""

import dataclasses

from repot.cluster_names import INTEGRATION_SECRET_VARIABLES, INTEGRATION_VARIABLES
from repot.settings.integrations import IntegrationSettings, variable_name


def test_every_setting_is_a_key_of_the_config_map_or_the_secret() -> None:
    names = [field.name for field in dataclasses.fields(IntegrationSettings)]
    keys = {**INTEGRATION_VARIABLES, **INTEGRATION_SECRET_VARIABLES}

    assert sorted(keys.values()) == sorted(map(variable_name, names))
    assert sorted(key.lower() for key in keys) == sorted(names)


def test_blank_variables_are_not_set() -> None:
    environment = {"REPOT_NOTIFY_EVENTS": " ", "REPOT_NOTIFY_URL": " https://h/x\n", "OTHER": "x"}

    settings = IntegrationSettings.from_environment(environment)

    assert settings == IntegrationSettings(notify_url="https://h/x")
    assert settings.events == ("failed", "promoted")
