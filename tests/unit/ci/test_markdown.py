import pytest
from markdown_it import MarkdownIt

from repot_pipelines.ci.markdown import code, code_block, link, one_line, plain, table

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
    """Return what a person reads, without the invisible."""
    words = [
        child.content
        for token in MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(markdown)
        for child in token.children or ()
    ]
    return "".join(words).replace("\u200b", "")


@pytest.mark.parametrize("text", HOSTILE)
def test_plain_is_one_paragraph_that_reads_as_the_text(text: str) -> None:
    html = rendered(plain(text))

    assert html.startswith("<p>")
    assert html.count("<") == 2, html
    assert text_of(plain(text)) == one_line(text)


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("escape", [plain, code])
def test_cell_of_a_table_stays_one_cell(text: str, escape: object) -> None:
    assert callable(escape)
    html = rendered(table(["a", "b"], [[escape(text), "end"]]))

    assert html.count("<td>") == 2, html
    assert "<td>end</td>" in html


@pytest.mark.parametrize("text", [text for text in HOSTILE if "|" not in text])
def test_code_reads_as_the_text(text: str) -> None:
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
def test_plain_refers_to_nobody_and_nothing(text: str) -> None:
    mark = next(mark for mark in ("@", "#", "!", "~", "%", "://", "WWW.") if mark in text)

    assert mark + text.split(mark)[1] not in plain(text)
    assert plain(text).replace("\u200b", "").replace("\\", "") == text


def test_plain_leaves_ordinary_sentences_alone() -> None:
    sentence = "precision@1 of 0.91 (95 % interval) reaches 0.8; gs://bucket/x, 3 pictures more."

    assert plain(sentence) == sentence


@pytest.mark.parametrize("text", ["```\nend?\n```", "a\n````b", "plain"])
def test_code_block_cannot_be_left(text: str) -> None:
    (token,) = MarkdownIt("commonmark").parse(code_block(text, max_characters=100))

    assert (token.type, token.content) == ("fence", f"{text}\n")


@pytest.mark.parametrize(("length", "is_cut"), [(9, False), (10, False), (11, True)])
def test_code_block_keeps_the_end_of_a_long_text(length: int, is_cut: bool) -> None:
    text = "".join(map(str, range(10)))[:length].ljust(length, "e")

    lines = code_block(text, max_characters=10).splitlines()

    assert lines[1:-1] == (["[...]", text[-10:]] if is_cut else [text])


def test_control_characters_are_gone() -> None:
    assert one_line("a\x1b[31mb\x00\tc\n d") == "a[31mb c d"
    assert "\x1b" not in code_block("\x1b[1mx", max_characters=10)


@pytest.mark.parametrize(("length", "end"), [(1000, "x"), (1001, "…")])
def test_long_line_is_cut(length: int, end: str) -> None:
    line = one_line("x" * length)

    assert (len(line), line[-1]) == (1000, end)


def test_link_leads_where_it_says() -> None:
    assert rendered(link(code("a]b"), "https://x.example/#/runs/1")) == (
        '<p><a href="https://x.example/#/runs/1"><code>a]b</code></a></p>\n'
    )
