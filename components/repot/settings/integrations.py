"""Settings of the services that hear about a run: notifications, model servers, registries.

A cluster's administrator sets them once for all runs: in the ConfigMap `repot-settings`, and in the
Secret `repot-integrations` where they are secret. They reach the tasks as environment variables,
which `repot run` reads too. They are not parameters of the pipeline: none of them changes a result.
"""

import dataclasses
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, Self
from urllib.parse import urlsplit

from repot.errors import UsageError, unknown_name
from repot.kubernetes_rules import cpu_problems, memory_problems, name_problems
from repot.settings.fields import Settings, matching, must, one_of, setting

Event = Literal["failed", "promoted", "rejected", "undecided", "unchanged"]
EVENTS: tuple[Event, ...] = ("failed", "promoted", "rejected", "undecided", "unchanged")
FORMATS = ("auto", "slack", "json")

SERVING_VERSION = "2.19.1"
"""TensorFlow Serving for KServe. KServe's own default, 2.6.2, lacks the operation DisableCopyOnRead
that TensorFlow 2.21 writes into every SavedModel."""

_IMAGE_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_VARIABLES_OF_OTHERS = ("MLFLOW_EXPERIMENT_NAME", "MLFLOW_TRACKING_URI")
_BOOLEANS = {"true": True, "false": False}
_WEB_SCHEMES = ("http", "https")


class EnvironmentSettings(Settings):
    """Settings that come from environment variables."""

    __slots__ = ()

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Self:
        """Build from environment variables; a variable that is blank counts as not set.

        Raises:
            UsageError: Lists every variable that is wrong.
        """
        values: dict[str, str | bool] = {}
        problems = []
        for field in dataclasses.fields(cls):
            value = environment.get(variable_name(field.name), "").strip()
            if value and field.type is bool and value.lower() not in _BOOLEANS:
                problems.append(must(field.name, "be true or false", value))
            elif value:
                values[field.name] = _BOOLEANS[value.lower()] if field.type is bool else value
        try:
            settings = cls.from_json(values)
        except UsageError as err:
            raise UsageError([*problems, *err.problems]) from err
        if problems:
            raise UsageError(problems)
        return settings


@dataclass(frozen=True, kw_only=True, slots=True)
class NotificationSettings(EnvironmentSettings):
    """Where notifications go; a mistake in other settings must not stop them."""

    notify_url: str = setting(
        "",
        "Webhook that receives notifications, such as a Slack webhook; secret.",
    )
    notify_events: str = setting(
        "failed,promoted",
        f"Events that are sent, with commas: {', '.join(EVENTS)}.",
    )
    notify_format: str = setting(
        "auto",
        "Format of a notification: slack (text only), json (all fields), or auto: slack for hosts "
        "of slack.com, json for others.",
        rule=one_of(FORMATS),
    )
    kfp_ui_url: str = setting(
        "",
        "Address of Kubeflow Pipelines' UI as people open it, for links to runs.",
    )

    @property
    def events(self) -> tuple[str, ...]:
        """Return the events that are sent."""
        return _split(self.notify_events)

    def _problems(self) -> Iterator[str]:
        yield from EnvironmentSettings._problems(self)
        for event in self.events:
            if event not in EVENTS:
                yield unknown_name("notify_events", event, EVENTS)
        yield from _url_problems("notify_url", self.notify_url, is_secret=True)
        yield from _url_problems("kfp_ui_url", self.kfp_ui_url)


@dataclass(frozen=True, kw_only=True, slots=True)
class IntegrationSettings(EnvironmentSettings):
    """Where trained and promoted versions are recorded or served; each only if it is set."""

    kserve_manifest: bool = setting(
        False,
        "Whether a promotion prepares the version for KServe, as `repot serve-manifest` does; true "
        "or false.",
    )
    kserve_service_account: str = setting(
        "",
        "Service account of KServe's pods, whose Secrets or workload identity let them read the "
        "storage.",
    )
    kserve_cpu: str = setting("1", "CPUs of a KServe pod.")
    kserve_memory: str = setting("2Gi", "Memory of a KServe pod.")
    kserve_runtime_version: str = setting(
        SERVING_VERSION,
        "Tag of the image tensorflow/serving that KServe runs.",
        rule=matching(_IMAGE_TAG, "be the tag of a container image, such as 2.19.1"),
    )

    mlflow_tracking_uri: str = setting(
        "",
        "Address of an MLflow server; each training becomes a run there.",
    )
    mlflow_experiment_name: str = setting(
        "",
        "MLflow experiment; repot-MODEL_NAME if not set.",
    )
    mlflow_log_model: bool = setting(
        False,
        "Whether the model's files are copied to MLflow; otherwise a tag has their address. true "
        "or false.",
    )
    model_registry_url: str = setting(
        "",
        "Address of Kubeflow's Model Registry, without /api; each promoted version gets an entry.",
    )
    integrations_required: bool = setting(
        False,
        "Whether a run fails if KServe's manifest cannot be written, or MLflow or the Model "
        "Registry does not accept it; true or false. The version stays promoted then.",
    )
    signing_public_key: str = setting(
        "",
        "Public key in PEM, or the path of its file; versions that are not signed by it are not "
        "used.",
    )

    def _problems(self) -> Iterator[str]:
        yield from EnvironmentSettings._problems(self)
        yield from _url_problems("model_registry_url", self.model_registry_url)
        yield from cpu_problems({"kserve_cpu": self.kserve_cpu})
        yield from memory_problems({"kserve_memory": self.kserve_memory})
        if self.kserve_service_account:
            yield from name_problems({"kserve_service_account": self.kserve_service_account})


ENVIRONMENT_SETTINGS: tuple[type[EnvironmentSettings], ...] = (
    NotificationSettings,
    IntegrationSettings,
)


def variable_name(setting_name: str) -> str:
    """Return the environment variable of a setting, e.g. REPOT_NOTIFY_URL."""
    name = setting_name.upper()
    return name if name in _VARIABLES_OF_OTHERS else f"REPOT_{name}"


def environment_problems(environment: Mapping[str, str]) -> tuple[str, ...]:
    """Return what is wrong with all of these settings in the environment."""
    problems: tuple[str, ...] = ()
    for settings in ENVIRONMENT_SETTINGS:
        try:
            settings.from_environment(environment)
        except UsageError as err:
            problems += err.problems
    return problems


def _split(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _url_problems(name: str, url: str, *, is_secret: bool = False) -> Iterator[str]:
    """Yield what is wrong with an address; the value of a secret one is not repeated."""
    if not url:
        return
    try:
        parts = urlsplit(url)
        is_valid = parts.scheme in _WEB_SCHEMES and bool(parts.hostname) and parts.port != 0
    except ValueError:  # such as a port that is not a number
        is_valid = False
    if not is_valid:
        yield must(name, "be an http:// or https:// address", "***" if is_secret else url)
