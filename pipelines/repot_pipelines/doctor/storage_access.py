"""The storage: whether one may write, read, list and delete there, and with which credentials."""

from collections.abc import Mapping
from pathlib import Path

from repot import storage
from repot.errors import StorageError
from repot_pipelines.doctor.check import Check, failed, not_checked, ok, problem
from repot_pipelines.doctor.credentials import describe_credentials
from repot_pipelines.doctor.deadline import within
from repot_pipelines.doctor.machine import nearest_folder

NAME = "access"
_SECONDS = 20
"""Storage itself goes on trying for longer than a person wants to wait for this answer."""


def check_access(storage_uri: str) -> Check:
    """Return whether objects can be written, read, listed and deleted below a folder; nothing is left there.

    Args:
        storage_uri: The folder.
    """
    is_local = storage.is_local(storage_uri)
    # A local folder that is not there yet is not made for a question.
    place = str(nearest_folder(Path(storage_uri))) if is_local else storage_uri
    try:
        within(_SECONDS, lambda: storage.check_writable(place))
    except TimeoutError:
        finding = f"{storage_uri} is not answered for within {_SECONDS} s."
        return problem(NAME, finding, "Check the network, the proxy and the firewall, and the address of the store.")
    except StorageError as err:
        return failed(NAME, err, fix="Choose another --storage-uri.")
    later = f" ({place} is there, the rest is made when it is needed)" if place != storage_uri else ""
    return ok(NAME, f"{storage_uri} can be written, read and listed{later}")


def check_credentials(storage_uri: str, environment: Mapping[str, str]) -> Check:
    """Return with which credentials this machine comes to the storage; pods come with those of their service account.

    Args:
        storage_uri: The folder.
        environment: Variables by name.
    """
    scheme = "" if storage.is_local(storage_uri) else storage_uri.partition("://")[0]
    words = describe_credentials(scheme, environment, Path.home())
    pods = "; pods come with those of their service account" if scheme else ""
    if words is None:
        return not_checked("credentials", f"nothing here names any, so they are the machine's own, if any{pods}")
    return ok("credentials", f"{words}{pods}")
