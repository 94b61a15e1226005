"""Options that several commands share."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import click

DEBUG_OPTION = "--debug"

_Command = TypeVar("_Command", bound=Callable[..., Any])


def debug_option(command: _Command) -> _Command:
    """Add --debug; the entry point reads it, the command does not."""
    return click.option(
        DEBUG_OPTION, is_flag=True, expose_value=False, help="Show the traceback of an error."
    )(command)


def directory_option(name: str, *, help: str) -> Callable[[_Command], _Command]:  # noqa: A002 - click's own word
    """Add a required option that takes a folder, or a gs:// or s3:// prefix."""
    return click.option(name, required=True, metavar="DIRECTORY", help=help)


@contextlib.contextmanager
def shown_progress() -> Iterator[None]:
    """Draw the progress of the work that is done meanwhile in this process."""
    from rich.console import Console

    from repot_pipelines.local.events import watch
    from repot_pipelines.local.progress_view import make_view

    with make_view(Console(stderr=True)) as view, watch(view.show):
        yield
