"""Which cluster is meant, and a client for it: the pod that one is in, or a context of kubeconfig."""

import contextlib
import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repot_pipelines.doctor.check import within
from repot_pipelines.doctor.cluster_errors import TRY_KUBECTL, ClusterError

_LOGIN_SECONDS = 10
"""For kubeconfig's plug-in that fetches a token; some wait for a person in a browser, for ever."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where a cluster is.

    Attributes:
        kubeconfig: Paths as in $KUBECONFIG; "" for the cluster that this pod is in.
        context: Context of kubeconfig.
    """

    kubeconfig: str
    context: str

    @property
    def title(self) -> str:
        """Return what a person calls it."""
        return (
            f"context {self.context} of kubeconfig"
            if self.kubeconfig
            else "the cluster of this pod"
        )


def find_place(context: str, environment: Mapping[str, str], home: Path) -> Place | None:
    """Return which cluster is meant; None where nothing names one.

    Args:
        context: Context of kubeconfig; "" for the current one.
        environment: Variables by name.
        home: The user's home folder.

    Raises:
        ClusterError: The kubeconfig that is named is not there or unreadable, or has no such context.
    """
    if "KUBERNETES_SERVICE_HOST" in environment and not context:
        return Place(kubeconfig="", context="")
    named = environment.get("KUBECONFIG", "")
    kubeconfig = named or str(home / ".kube" / "config")
    if not any(Path(path).exists() for path in kubeconfig.split(os.pathsep) if path):
        if not named and not context:
            return None
        raise ClusterError(
            f"There is no kubeconfig at {kubeconfig}. Set KUBECONFIG, or have the cluster write one."
        )
    contexts, current = _read_contexts(kubeconfig)
    if not context and not current:
        return None
    if (context or current) not in contexts:
        raise ClusterError(
            f"kubeconfig {kubeconfig} has no context {context or current}. "
            f"Choose with --context among: {', '.join(contexts) or 'none'}."
        )
    return Place(kubeconfig=kubeconfig, context=context or current)


def make_api(place: Place) -> Any:
    """Return a kubernetes.client.ApiClient; nobody but kubeconfig's plug-in for credentials is contacted yet.

    Raises:
        ClusterError: The context cannot be used.
    """
    import urllib3
    from kubernetes import client

    configuration = client.Configuration()
    try:
        with _kept_complaints() as complaints:
            within(_LOGIN_SECONDS, lambda: _load(place, configuration))
    except TimeoutError as err:
        raise ClusterError(
            f"The plug-in for the credentials of {place.title} does not end within {_LOGIN_SECONDS} s. "
            f"Log in first: {TRY_KUBECTL}"
        ) from err
    except Exception as err:  # kubeconfig fails in as many ways as its plug-ins
        fix = (
            TRY_KUBECTL
            if place.kubeconfig
            else "Give the pod its token: automountServiceAccountToken, or --context."
        )
        raise ClusterError(f"{place.title} cannot be used: {_one_line(str(err))}. {fix}") from err
    if complaints and not _has_credentials(configuration):
        raise ClusterError(
            f"{place.title} gets no credentials: {_one_line(complaints[-1])}. "
            f"Install or repair that plug-in, or log in; {TRY_KUBECTL}"
        )
    # Who is not there is not asked three times more.
    configuration.retries = urllib3.Retry(connect=0, read=0, other=0, redirect=4)
    return client.ApiClient(configuration)


def _read_contexts(kubeconfig: str) -> tuple[list[str], str]:
    """Return the names of all contexts and of the current one; kubectl, too, takes an empty file for none."""
    import yaml

    names: list[str] = []
    current = ""
    for path in kubeconfig.split(os.pathsep):
        if not path or not Path(path).exists():
            continue
        try:
            facts = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
            names += [context["name"] for context in facts.get("contexts") or []]
            current = current or facts.get("current-context") or ""
        except (OSError, ValueError, yaml.YAMLError, AttributeError, KeyError, TypeError) as err:
            raise ClusterError(
                f"kubeconfig {path} cannot be read: {_one_line(str(err))}. Repair it, or set KUBECONFIG."
            ) from err
    return names, current


def _load(place: Place, configuration: Any) -> None:
    from kubernetes import config

    if place.kubeconfig:
        config.load_kube_config(
            config_file=place.kubeconfig, context=place.context, client_configuration=configuration
        )
    else:
        config.load_incluster_config(client_configuration=configuration)


def _has_credentials(configuration: Any) -> bool:
    return bool(configuration.api_key or configuration.cert_file or configuration.username)


@contextlib.contextmanager
def _kept_complaints() -> Iterator[list[str]]:
    """Yield the messages that are logged meanwhile: the client only logs why a plug-in gave no credentials."""
    kept: list[str] = []
    handler = logging.Handler(logging.ERROR)
    handler.emit = lambda record: kept.append(record.getMessage())  # type: ignore[method-assign]
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        yield kept
    finally:
        root.removeHandler(handler)


def _one_line(text: str) -> str:
    return " ".join(text.split()).rstrip(".")[:300]
