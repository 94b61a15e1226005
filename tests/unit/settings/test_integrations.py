"""Settings of the services that hear about a run: how they reach a task."""

import dataclasses

from repot.cluster_names import INTEGRATION_SECRET_VARIABLES, INTEGRATION_VARIABLES
from repot.settings.integrations import (
    ENVIRONMENT_SETTINGS,
    IntegrationSettings,
    NotificationSettings,
    environment_problems,
    variable_name,
)


def test_every_setting_is_a_key_of_the_config_map_or_the_secret() -> None:
    names = [field.name for each in ENVIRONMENT_SETTINGS for field in dataclasses.fields(each)]
    keys = {**INTEGRATION_VARIABLES, **INTEGRATION_SECRET_VARIABLES}

    assert sorted(keys.values()) == sorted(map(variable_name, names))
    assert sorted(key.lower() for key in keys) == sorted(names)


def test_blank_variables_are_not_set() -> None:
    environment = {"REPOT_NOTIFY_EVENTS": " ", "REPOT_NOTIFY_URL": " https://h/x\n", "OTHER": "x"}

    settings = NotificationSettings.from_environment(environment)

    assert settings == NotificationSettings(notify_url="https://h/x")
    assert settings.events == ("failed", "promoted")


def test_mistake_in_another_setting_does_not_stop_notifications() -> None:
    environment = {"REPOT_KSERVE_CPU": "2Gi", "REPOT_NOTIFY_URL": "https://h/x"}

    assert NotificationSettings.from_environment(environment).notify_url
    (problem,) = environment_problems(environment)
    assert "kserve_cpu must be" in problem


def test_truth_values_are_read() -> None:
    for text, value in {"true": True, "False": False}.items():
        settings = IntegrationSettings.from_environment({"REPOT_KSERVE_MANIFEST": text})
        assert settings.kserve_manifest is value
