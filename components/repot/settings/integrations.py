"""Settings of the services that hear about a run: where to send notifications.

A cluster's administrator sets them once for all runs: in the ConfigMap `repot-settings`, and in the
Secret `repot-integrations` where they are secret. They reach the tasks as environment variables,
which `repot run` reads too. They are not parameters of the pipeline: none of them changes a result.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, Self
from urllib.parse import urlsplit

from repot.errors import unknown_name
from repot.settings.fields import Settings, must, one_of, setting

Event = Literal["failed", "promoted", "rejected", "unchanged"]
EVENTS: tuple[Event, ...] = ("failed", "promoted", "rejected", "unchanged")
FORMATS = ("auto", "slack", "json")

_WEB_SCHEMES = ("http", "https")


@dataclass(frozen=True, kw_only=True, slots=True)
class IntegrationSettings(Settings):
    """Services outside the cluster that a run reports to; each is used only if it is set."""

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

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Self:
        """Build from environment variables; a variable that is blank counts as not set.

        Raises:
            UsageError: Lists every variable that is wrong.
        """
        values = {
            field.name: environment[variable_name(field.name)].strip()
            for field in dataclasses.fields(cls)
            if environment.get(variable_name(field.name), "").strip()
        }
        return cls.from_json(values)

    def _problems(self) -> Iterator[str]:
        yield from Settings._problems(self)
        for event in self.events:
            if event not in EVENTS:
                yield unknown_name("notify_events", event, EVENTS)
        yield from _url_problems("notify_url", self.notify_url, is_secret=True)
        yield from _url_problems("kfp_ui_url", self.kfp_ui_url)


def variable_name(setting_name: str) -> str:
    """Return the environment variable of a setting, e.g. REPOT_NOTIFY_URL."""
    return f"REPOT_{setting_name.upper()}"


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
