"""The style of all HTML pages, filters of their templates, and the template of the data page."""

import functools
import importlib.resources
import re

import jinja2
import markupsafe

from repot.errors import printable

MISSING = "–"
SMALLEST_P = 0.0001

# Where a name without blanks may go on in the next line: after its separators, not in a number.
_BREAK = re.compile(r"(?<=[_/:;@=+-])(?=[^\s_/.,:;@=+-])|(?<=[.,])(?=[^\W\d_])")


@functools.cache
def environment(package: str = __name__) -> jinja2.Environment:
    """Return the templates of a package and of this one; values are escaped in HTML only.

    Every value is shown as text: names of files may have bytes that are none, see `_to_text`.
    """
    folders = [importlib.resources.files(name) for name in (package, __name__)]

    def load(name: str) -> str | None:
        found = (folder / name for folder in folders if (folder / name).is_file())
        return next((file.read_text(encoding="utf-8") for file in found), None)

    env = jinja2.Environment(
        loader=jinja2.FunctionLoader(load),
        autoescape=jinja2.select_autoescape(["html.j2"], default=False),
        undefined=jinja2.StrictUndefined,
        finalize=_to_text,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    env.filters.update(
        decimal=decimal,
        command=command,
        count=count,
        p_equals=p_equals,
        p_value=p_value,
        plural=plural,
        name=name,
        printable=printable,
    )
    return env


def decimal(value: float | None, digits: int = 2) -> str:
    """Return a number with a fixed number of decimals, or a dash for None."""
    return MISSING if value is None else f"{value:.{digits}f}"


def p_value(value: float | None) -> str:
    """Return a probability with two significant digits, or a dash for None."""
    if value is None:
        return MISSING
    return f"{value:.2g}" if value >= SMALLEST_P else f"< {SMALLEST_P:g}"


def p_equals(value: float) -> str:
    """Return what follows p in a sentence: "= 0.02", or "< 0.0001"."""
    text = p_value(value)
    return text if text.startswith("<") else f"= {text}"


def count(value: int) -> str:
    """Return a whole number with thousands separators."""
    return f"{value:,}"


def name(text: str) -> markupsafe.Markup:
    """Return a label, file name or id as printable HTML that breaks only between its words."""
    parts = [markupsafe.escape(part) for part in _BREAK.split(printable(text))]
    return markupsafe.Markup("<wbr>").join(parts)


def command(text: str) -> str:
    """Return a command as printable text that breaks only between its words, if it has lines."""
    return "\n".join(map(printable, text.split("\n")))


def plural(value: int, noun: str) -> str:
    """Return a count with its noun: "1 picture", "1,200 pictures"."""
    return f"{value:,} {noun}{'' if value == 1 else 's'}"


def _to_text(value: object) -> object:
    """Return a value with escapes for lone surrogates, which no file in UTF-8 can have.

    Python has them for the bytes of a name that is not UTF-8.
    """
    if not isinstance(value, str) or value.isascii():
        return value
    text = value.encode(errors="backslashreplace").decode()
    return markupsafe.Markup(text) if isinstance(value, markupsafe.Markup) else text  # noqa: S704
