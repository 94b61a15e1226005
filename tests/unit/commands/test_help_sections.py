"""Help texts: every command and option is listed once, under a heading, with its default."""

import re

import click
import pytest
from click.testing import CliRunner

from repot_pipelines.cli import repot
from repot_pipelines.commands.help_sections import SectionedCommand


def help_text(*command: str) -> str:
    result = CliRunner().invoke(repot, [*command, "--help"], terminal_width=100)
    assert result.exit_code == 0
    return result.output


def sections(text: str) -> dict[str, str]:
    """Return the text under each heading."""
    parts = re.split(r"^(\S.*):\n", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_every_command_is_listed_once_with_its_whole_first_sentence() -> None:
    listed = "".join(text for title, text in sections(help_text()).items() if title != "Options")

    assert re.findall(r"^  (\S+)", listed, re.MULTILINE) == list(repot.commands)
    assert "..." not in listed
    assert " ".join(listed.split()).count("with a fix for everything that is not.") == 1


@pytest.mark.parametrize(
    "names", [("run",), ("submit",), ("ci",), ("schedule", "apply")], ids=" ".join
)
def test_every_option_is_in_one_section(names: tuple[str, ...]) -> None:
    command: click.Command = repot
    for name in names:
        assert isinstance(command, click.Group)
        command = command.commands[name]
    assert isinstance(command, SectionedCommand)
    found = sections(help_text(*names))

    listed = re.findall(r"^  (--?[\w-]+)", "".join(found.values()), re.MULTILINE)

    options = {option.opts[0] for option in command.params if isinstance(option, click.Option)}
    assert len(listed) == len(set(listed))
    # click keeps the help option of the first context, whose settings decide whether it has -h.
    assert set(listed) - {"-h", "--help"} == options
    assert "--batch-size" in found["Training"]
    assert "--nested" in found["Dataset and splits"]
    assert ("Server" in found) == (names != ("run",))
    assert "--debug" in found["Options"]


def test_defaults_are_stated_unless_the_preset_decides() -> None:
    text = " ".join(help_text("run").split())

    assert "held out for validation; ignored if they are already split. [default: 0.2]" in text
    assert "train all of Inception-v3 as the 2016 tutorial did. [default: auto]" in text
    assert "siglip2, swin, resnet_vd. [default: the preset's]" in text
    assert "cluster trains inception_v3; laptop trains efficientnet_lite0." in text
    # A flag, and a text that is empty by default, have none to state.
    assert "also in subfolders. --crop-to-boxes" in text
    assert "Any new text forces a new training. Input:" in text


def test_option_that_is_not_given_stays_unset() -> None:
    """The stated default must not hide that of the preset."""
    run = repot.commands["run"]
    (backbone,) = [each for each in run.params if each.name == "backbone"]

    assert backbone.default is None
