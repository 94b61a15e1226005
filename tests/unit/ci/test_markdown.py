import pytest
from markdown_it import MarkdownIt

from repot_pipelines.ci.markdown import code, code_block, escape, link, one_line, table

HOSTILE = [
    "a|b",
    "**bold** _it_ ~~no~~ `code`",
    "<script>alert(1)</script> <!-- gone",
    "[click](http://evil.example) ![x](y)",
    "$x^2$ &amp; \\",
    "# title",
    "- item",
    "+ item",
    "1. item",
    "2) item",
    "> quote",
    "``` fence",
    "`",
    "``a`",
    "two\nlines\r\n| --- |",
    "/close",
]


def rendered(markdown: str) -> str:
    return str(MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(markdown))


def text_of(markdown: str) -> str:
    """Return the visible text."""
    parts = [
        child.content
        for token in MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(markdown)
        for child in token.children or ()
    ]
    return "".join(parts).replace("\u200b", "")


@pytest.mark.parametrize("text", HOSTILE)
def test_escaped_text_renders_literally_as_one_paragraph(text: str) -> None:
    html = rendered(escape(text))

    assert html.startswith("<p>")
    assert html.count("<") == 2, html
    assert text_of(escape(text)) == one_line(text)


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("convert", [escape, code])
def test_table_cell_stays_one_cell(text: str, convert: object) -> None:
    assert callable(convert)
    html = rendered(table(["a", "b"], [[convert(text), "end"]]))

    assert html.count("<td>") == 2, html
    assert "<td>end</td>" in html


@pytest.mark.parametrize("text", [text for text in HOSTILE if "|" not in text])
def test_code_renders_literally(text: str) -> None:
    tokens = MarkdownIt("commonmark").parseInline(code(text))[0].children or []

    assert [(token.type, token.content) for token in tokens] == [("code_inline", one_line(text))]


@pytest.mark.parametrize(
    "text",
    [
        "@octocat",
        "see #12",
        "!7",
        "~label",
        "x/y#3",
        "%4",
        "http://evil.example",
        "WWW.evil.example",
    ],
)
def test_escaped_text_contains_no_reference_or_link(text: str) -> None:
    mark = next(mark for mark in ("@", "#", "!", "~", "%", "://", "WWW.") if mark in text)

    assert mark + text.split(mark)[1] not in escape(text)
    assert escape(text).replace("\u200b", "").replace("\\", "") == text


def test_escape_keeps_ordinary_sentences() -> None:
    sentence = "precision@1 of 0.91 (95 % interval) reaches 0.8; gs://bucket/x, 3 pictures more."

    assert escape(sentence) == sentence


@pytest.mark.parametrize("text", ["```\nend?\n```", "a\n````b", "plain"])
def test_code_block_cannot_be_closed_by_its_text(text: str) -> None:
    (token,) = MarkdownIt("commonmark").parse(code_block(text, max_characters=100))

    assert (token.type, token.content) == ("fence", f"{text}\n")


@pytest.mark.parametrize(("length", "is_cut"), [(9, False), (10, False), (11, True)])
def test_code_block_keeps_the_end_of_long_text(length: int, is_cut: bool) -> None:
    text = "".join(map(str, range(10)))[:length].ljust(length, "e")

    lines = code_block(text, max_characters=10).splitlines()

    assert lines[1:-1] == (["[...]", text[-10:]] if is_cut else [text])


def test_control_characters_are_removed() -> None:
    assert one_line("a\x1b[31mb\x00\tc\n d") == "a[31mb c d"
    assert "\x1b" not in code_block("\x1b[1mx", max_characters=10)


@pytest.mark.parametrize(("length", "end"), [(1000, "x"), (1001, "…")])
def test_long_line_is_truncated(length: int, end: str) -> None:
    line = one_line("x" * length)

    assert (len(line), line[-1]) == (1000, end)


def test_link_renders_text_and_url() -> None:
    assert rendered(link(code("a]b"), "https://x.example/#/runs/1")) == (
        '<p><a href="https://x.example/#/runs/1"><code>a]b</code></a></p>\n'
    )
