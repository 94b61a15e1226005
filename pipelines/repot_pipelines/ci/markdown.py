"""Text from outside as Markdown that shows it as it is, on GitHub and on GitLab.

A label, a file name or the end of a pod's log may hold anything: it must make no link, mention nobody, end no table
and start no quick action. Sources: https://github.github.com/gfm, https://docs.gitlab.com/user/markdown.
"""

import re
from collections.abc import Sequence

_ZERO_WIDTH_SPACE = "\u200b"
_MARKS = re.compile(r"([\\`*_{}\[\]<>|~&$])")
# What both places make references of where it stands before a word: people, issues, labels, milestones.
_REFERENCES = re.compile(r"((?:(?<!\w)@|[#!%~])(?=[\w\"]))")
_ADDRESSES = re.compile(r"\b(https?|ftp)://|\bwww\.", re.IGNORECASE)
_LINE_STARTS = re.compile(r"^([#/+-]|\d+(?=[.)]))")


def plain(text: str) -> str:
    """Return one line of text in which nothing is markup."""
    line = one_line(text)
    line = _ADDRESSES.sub(lambda match: f"{match[0][:-1]}{_ZERO_WIDTH_SPACE}{match[0][-1]}", line)
    line = _REFERENCES.sub(rf"\1{_ZERO_WIDTH_SPACE}", line)
    line = _MARKS.sub(r"\\\1", line)
    return _LINE_STARTS.sub(lambda match: f"{_ZERO_WIDTH_SPACE}{match[0]}", line)


def code(text: str) -> str:
    """Return one line of text as code, fit for the cell of a table."""
    line = one_line(text).replace("|", r"\|")
    if not line:
        return ""
    fence = "`" * (_longest_run(line) + 1)
    padding = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{padding}{line}{padding}{fence}"


def code_block(text: str, *, max_characters: int) -> str:
    """Return lines of text as a block of code; of a long text the end."""
    shown = _without_controls(text.strip("\n"))
    if len(shown) > max_characters:
        shown = f"[...]\n{shown[-max_characters:]}"
    fence = "`" * max(3, _longest_run(shown) + 1)
    return f"{fence}text\n{shown}\n{fence}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table; its cells are Markdown already."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def link(words: str, address: str) -> str:
    """Return a link to an address of our own making; the words are Markdown already."""
    return f"[{words}](<{address}>)"


def one_line(text: str, *, max_characters: int = 1000) -> str:
    """Return text without line breaks and control characters; a long one is cut."""
    line = " ".join(_without_controls(text).split())
    return line if len(line) <= max_characters else f"{line[: max_characters - 1]}…"


def _without_controls(text: str) -> str:
    return "".join(
        character for character in text if character.isprintable() or character in "\n\t"
    )


def _longest_run(text: str) -> int:
    return max(map(len, re.findall("`+", text)), default=0)
