"""The console command `repot`: its commands, and how an error becomes a message and an exit code.

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 not promoted by the gate (where the caller asked for
it), 130 interrupted by Ctrl-C or SIGTERM. They are defined in `repot.errors`.
"""

import atexit
import errno
import gc
import io
import itertools
import os
import signal
import sys
import traceback
from pathlib import Path

import click

from repot import __version__
from repot.errors import EXIT_INTERRUPTED, RepotError, UsageError, printable
from repot.masking import MaskedStream, read_secrets, secret_parts
from repot.memory import describe_out_of_memory, is_out_of_memory
from repot_pipelines.commands.ci import ci_command
from repot_pipelines.commands.compile import compile_command
from repot_pipelines.commands.doctor import doctor_command
from repot_pipelines.commands.export import export_command
from repot_pipelines.commands.help_sections import SectionedGroup
from repot_pipelines.commands.models import models_group
from repot_pipelines.commands.options import DEBUG_OPTION
from repot_pipelines.commands.predict import predict_command
from repot_pipelines.commands.prune import prune_command
from repot_pipelines.commands.rollback import rollback_command
from repot_pipelines.commands.run import run_command
from repot_pipelines.commands.runs import runs_group
from repot_pipelines.commands.schedule import schedule_group
from repot_pipelines.commands.serve_manifest import serve_manifest_command
from repot_pipelines.commands.shards import shards_command
from repot_pipelines.commands.submit import submit_command
from repot_pipelines.commands.tutorial import (
    checkpoint_command,
    evaluate_command,
    train_command,
)
from repot_pipelines.commands.verify import verify_command

_COMMANDS = {
    "On this machine": (run_command, predict_command, export_command),
    "Models and runs": (
        models_group,
        runs_group,
        rollback_command,
        verify_command,
        prune_command,
        serve_manifest_command,
    ),
    "On a cluster": (
        doctor_command,
        compile_command,
        submit_command,
        schedule_group,
        ci_command,
    ),
    "The four steps of the 2016 tutorial": (
        shards_command,
        checkpoint_command,
        train_command,
        evaluate_command,
    ),
}


@click.group(
    cls=SectionedGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="repot")
def repot() -> None:
    """Fine-tune an image classifier on your own pictures.

    `repot run PICTURES` runs the whole pipeline on this machine; `repot run --sample` needs no
    pictures.
    """


repot.sections = {
    title: [str(command.name) for command in commands] for title, commands in _COMMANDS.items()
}
for _command in itertools.chain.from_iterable(_COMMANDS.values()):
    repot.add_command(_command)


def main() -> None:
    """Run the command line and exit with its code."""
    signal.signal(signal.SIGTERM, _interrupt)
    # NumPy's OpenBLAS has a thread per core, each of which looks for work for 2**this many cycles
    # before it sleeps: by default for 30 ms after the import of NumPy, and after each operation.
    os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")
    # At its end, Python would look for garbage in all that was imported, which takes 30 ms.
    atexit.register(gc.freeze)
    _escape_what_the_terminal_cannot_show()
    _mask_secrets()
    try:
        sys.exit(repot.main(standalone_mode=False) or 0)
    except click.ClickException as err:
        err.show()
        sys.exit(err.exit_code)
    except RepotError as err:
        _show(err)
        sys.exit(err.exit_code)
    except UnicodeEncodeError as err:
        # Bytes of the command line that are not text in the locale's encoding.
        _show(
            UsageError(
                "Names and values must be text in the locale's encoding, "
                f"{sys.getfilesystemencoding()}; got {str(err.object)[:100]!r}. Correct the value, "
                "or set LC_ALL=C.UTF-8."
            )
        )
        sys.exit(UsageError.exit_code)
    except OSError as err:
        _show(RepotError(_os_error_message(err)))
        sys.exit(RepotError.exit_code)
    except (KeyboardInterrupt, click.Abort):
        click.echo(
            "Interrupted. Finished work is kept: run the same command again to continue.", err=True
        )
        sys.exit(EXIT_INTERRUPTED)
    except Exception as err:
        if not is_out_of_memory(err):
            raise
        _show(RepotError(describe_out_of_memory(err)))
        sys.exit(RepotError.exit_code)


def _os_error_message(err: OSError) -> str:
    if is_out_of_memory(err):
        return describe_out_of_memory(err)
    try:
        Path.cwd()
    except FileNotFoundError:
        return "The working folder must exist; it was deleted. Change to an existing folder."
    if err.filename:
        return f"{err.strerror or err}: {err.filename}."
    full = {
        errno.ENOSPC: "the disk is full. Free some space",
        errno.EDQUOT: "the disk quota is used up. Free some space",
        errno.EFBIG: "the file is too large. Raise the limit of `ulimit -f`",
    }
    if err.errno in full:
        return f"The output, or a file, cannot be written: {full[err.errno]}."
    return f"{err}."


def _show(err: RepotError) -> None:
    if DEBUG_OPTION in sys.argv:
        click.echo(getattr(err, "details", "") or traceback.format_exc(), err=True)
    lines = [printable(line) for line in str(err).splitlines()]
    if len(lines) == 1:
        click.echo(f"Error: {lines[0]}", err=True)
    else:
        click.echo("Error:\n" + "\n".join(f"  {line}" for line in lines), err=True)


def _escape_what_the_terminal_cannot_show() -> None:
    """Print characters that a Latin-1 or ASCII terminal does not have as Python escapes."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _mask_secrets() -> None:
    """Mask the secrets of the environment and of web addresses in everything that is printed."""
    secrets = {part for argument in sys.argv for part in secret_parts(argument)}
    secrets |= read_secrets(os.environ)
    # A stream that the caller closed is None.
    sys.stdout, sys.stderr = (
        stream and MaskedStream(stream, secrets) for stream in (sys.stdout, sys.stderr)
    )


def _interrupt(_signal_number: int, _frame: object) -> None:
    raise KeyboardInterrupt
