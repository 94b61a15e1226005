"""Text from outside as Markdown that shows it literally, on GitHub and on GitLab.

A label, a file name or the end of a pod's log may contain anything. It must not create a link,
mention a person, break a table or start a quick action.

Sources: https://github.github.com/gfm, https://docs.gitlab.com/user/markdown.
"""

import re
from collections.abc import Sequence

_ZERO_WIDTH_SPACE = "\u200b"
_MARKUP = re.compile(r"([\\`*_{}\[\]<>|~&$])")
# GitHub and GitLab turn these into references before a word: people, issues, labels, milestones.
_REFERENCES = re.compile(r"((?:(?<!\w)@|[#!%~])(?=[\w\"]))")
_URLS = re.compile(r"\b(https?|ftp)://|\bwww\.", re.IGNORECASE)
_LINE_STARTS = re.compile(r"^([#/+-]|\d+(?=[.)]))")


def escape(text: str) -> str:
    """Return text as one line in which nothing is markup, a link or a reference."""
    line = one_line(text)
    line = _URLS.sub(lambda match: f"{match[0][:-1]}{_ZERO_WIDTH_SPACE}{match[0][-1]}", line)
    line = _REFERENCES.sub(rf"\1{_ZERO_WIDTH_SPACE}", line)
    line = _MARKUP.sub(r"\\\1", line)
    return _LINE_STARTS.sub(lambda match: f"{_ZERO_WIDTH_SPACE}{match[0]}", line)


def code(text: str) -> str:
    """Return text as inline code on one line, also valid inside a table cell."""
    line = one_line(text).replace("|", r"\|")
    if not line:
        return ""
    fence = "`" * (_num_backticks(line) + 1)
    padding = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{padding}{line}{padding}{fence}"


def code_block(text: str, *, max_characters: int) -> str:
    """Return lines of text as a fenced code block; only the end of a text that is too long."""
    shown = _without_controls(text.strip("\n"))
    if len(shown) > max_characters:
        shown = f"[...]\n{shown[-max_characters:]}"
    fence = "`" * max(3, _num_backticks(shown) + 1)
    return f"{fence}text\n{shown}\n{fence}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table; the cells must already be Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def link(text: str, url: str) -> str:
    """Return a link; the text must already be Markdown, and the URL must be trusted."""
    return f"[{text}](<{url}>)"


def one_line(text: str, *, max_characters: int = 1000) -> str:
    """Return text without line breaks and control characters, truncated to max_characters."""
    line = " ".join(_without_controls(text).split())
    return line if len(line) <= max_characters else f"{line[: max_characters - 1]}…"


def _without_controls(text: str) -> str:
    return "".join(
        character for character in text if character.isprintable() or character in "\n\t"
    )


def _num_backticks(text: str) -> int:
    """Return the length of the longest run of backticks."""
    return max(map(len, re.findall("`+", text)), default=0)
