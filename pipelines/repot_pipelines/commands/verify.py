"""`repot verify`: compare stored files with their checksums."""

import click

from repot_pipelines.commands.options import debug_option


@click.command("verify")
@click.argument("location")
@debug_option
def verify_command(*, location: str) -> int:
    """Verify every file under LOCATION, and name the damaged and the missing ones.

    LOCATION is a storage URI, or a folder in it, such as one dataset, run or version. Every file is
    read. The exit code is 1 if a file is damaged or missing.
    """
    from repot import storage, storage_check
    from repot.errors import EXIT_FAILED, printable

    report = storage_check.verify_folder(storage.normalise(location))
    for line in storage_check.lines(report):
        click.echo(printable(line))  # a file's name may be a stranger's
    return EXIT_FAILED if report.damaged else 0
