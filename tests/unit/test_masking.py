import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from repot.masking import (
    MaskedStream,
    find_credentials,
    has_opaque_query,
    mask,
    read_secrets,
    redact_url,
    secret_parts,
)

JWT = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiIxMjMifQ.c2lnbmF0dXJl"


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        (f"token {JWT} end", "token *** end"),
        ("Authorization: Bearer abcdefgh123", "Authorization: Bearer ***"),
        ("ya29.a0AfH6SMBxyz-123 end", "*** end"),
        ("key AKIAABCDEFGHIJKLMNOP.", "key ***."),
        ("ghp_0123456789abcdefghijABCDEFGHIJ", "***"),
        ("glpat-0123456789abcdefghij", "***"),
        ("https://user:pass@host/x", "https://***@host/x"),
        ("got 'https://token@host/x'", "got 'https://***@host/x'"),
        ("https://h/x?private_token=ab#access_token=cd", "https://h/x?private_token=***"),
        (
            "url: /w.h5?v=1&Signature=a%2Fb&Key-Pair-Id=c end",
            "url: /w.h5?v=1&Signature=***&Key-Pair-Id=*** end",
        ),
        ("https://h/x?a=1&X-Amz-Signature=abc&b=2", "https://h/x?a=1&X-Amz-Signature=***&b=2"),
        ("https://h/x?sig=a%2Fb", "https://h/x?sig=***"),
        ("-----BEGIN PRIVATE KEY-----\nMIIE\n-----END PRIVATE KEY-----\nafter", "***\nafter"),
        ("-----BEGIN RSA PRIVATE KEY-----\nMIIE", "***"),
    ],
)
def test_credential_like_text_is_masked(text: str, masked: str) -> None:
    assert mask(text, frozenset()) == masked


@pytest.mark.parametrize(
    "text",
    [
        "version 0.1.0-0123456789ab, run 93af6469-7331-4887-b5fa-a8ef7addf345",
        "gs://bucket/runs/0123456789abcdef/gate/none/report.html",
        "precision@1 of 0.91; http://localhost:8080/#/runs/details/1",
        "sha256 " + "0123456789abcdef" * 4,
        "the bearer of this",
    ],
)
def test_other_text_is_kept(text: str) -> None:
    assert mask(text, frozenset()) == text


def test_secrets_are_read_from_variables_and_files(tmp_path: Path) -> None:
    token, cookie = tmp_path / "token", tmp_path / "cookie"
    token.write_text("file-token-1\n")
    cookie.write_text("session=cookie-value\n")
    environment = {
        "KF_PIPELINES_TOKEN": "variable-token",
        "MY_PASSWORD": "hunter2-hunter2",
        "SHORT_TOKEN": "1234567",
        "TOKEN_PATH": "/var/run/token",
        "HOME": "/home/somebody",
    }

    secrets = read_secrets(environment, [token, cookie, None, tmp_path / "missing"])

    assert secrets == {
        "variable-token",
        "hunter2-hunter2",
        "file-token-1",
        "session=cookie-value",
        "cookie-value",
    }


def test_every_line_of_a_private_key_is_masked() -> None:
    lines = ["-----BEGIN PRIVATE KEY-----", "A1b2" * 16, "C3d4" * 8, "-----END PRIVATE KEY-----"]
    secrets = read_secrets({"REPOT_SIGNING_PRIVATE_KEY": "\n".join(lines)})

    assert [mask(f"read {line}.", secrets) for line in lines[1:3]] == ["read ***."] * 2


@pytest.mark.parametrize("home", [False, True])
def test_key_in_a_file_is_masked_and_its_path_is_not(
    home: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = ["-----BEGIN PRIVATE KEY-----", "A1b2" * 16, "C3d4" * 8, "-----END PRIVATE KEY-----"]
    path = tmp_path / "signing.pem"
    path.write_text("".join(f"{line}\n" for line in lines))
    monkeypatch.setenv("HOME", str(tmp_path))
    named = "~/signing.pem" if home else str(path)

    secrets = read_secrets({"REPOT_SIGNING_PRIVATE_KEY": named})

    assert [mask(f"read {line}.", secrets) for line in lines[1:3]] == ["read ***."] * 2
    assert mask(f"{named} cannot be read", secrets) == f"{named} cannot be read"


@pytest.mark.parametrize("value", ["t" * 5000, "~nobody-here/token-1", "to\0ken-12", "/dev/zero"])
def test_value_that_is_no_key_file_is_secret_itself(value: str, tmp_path: Path) -> None:
    assert read_secrets({"MY_TOKEN": value}) == {value}
    (tmp_path / "note").write_text("no key")
    assert read_secrets({"MY_TOKEN": f"{tmp_path}/note"}) == {f"{tmp_path}/note"}


def test_longest_secret_is_masked_first() -> None:
    assert mask("abcdefgh-ijklmnop", frozenset({"abcdefgh", "abcdefgh-ijklmnop"})) == "***"


def test_stream_masks_output_of_rich() -> None:
    inner = io.StringIO()
    stream: Any = MaskedStream(inner, frozenset({"s3cret-value"}))
    console = Console(file=stream)

    console.print("it is s3cret-value, yes", markup=False)

    assert inner.getvalue() == "it is ***, yes\n"
    assert not console.is_terminal


def test_redact_url_removes_credentials_and_query_and_keeps_paths() -> None:
    assert redact_url("/a?b@c") == "/a?b@c"
    assert redact_url("https://u:p@h:8/a?sig=1#f") == "https://h:8/a"


@pytest.mark.parametrize(
    ("url", "text", "masked"),
    [
        ("https://user:pass%40word@host/a.h5", "user:pass%40word@host pass@word", "***@host ***"),
        (
            "https://host/a.h5?sig=abcd&v=1",
            "GET /a.h5?sig=abcd&v=1 or abcd, v1",
            "GET /a.h5?*** or ***, v1",
        ),
        ("https://token1@host/a.h5#frag", "token1@host/a.h5#frag", "***@host/a.h5#***"),
        ("http://me:secret@[::1", "http://me:secret@[::1", "http://***@[::1"),
        ("https://host?key=abcd", "host?key=abcd", "host?***"),
        ("https://host/a.h5", "https://host/a.h5", "https://host/a.h5"),
        ("gs://bucket/a@b?c", "gs://bucket/a@b?c", "gs://bucket/a@b?c"),
    ],
)
def test_secrets_of_a_web_address_are_masked(url: str, text: str, masked: str) -> None:
    assert mask(text, secret_parts(url)) == masked


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("https://user:pw@host/w.h5", "a user name or password"),
        ("https://ghp_token@host/w.h5", "a user name or password"),
        ("http://me:secret@[::1", "a user name or password"),
        ("https://host/w.h5?X-Amz-Signature=a&X-Amz-Date=b", "the parameter 'X-Amz-Signature'"),
        ("https://host/w.h5?X-Goog-Credential=a%2Fb", "the parameter 'X-Goog-Credential'"),
        ("https://host/w.h5?sv=2024&sig=a", "the parameter 'sig'"),
        ("https://host/w.h5?private_token=a", "the parameter 'private_token'"),
        ("https://host/w.h5#access_token=a", "the parameter 'access_token'"),
        ("https://host/w.h5?download=true", ""),
        ("https://host/w.h5", ""),
        ("gs://bucket/a@b?token=c", ""),
        ("/home/a@b/w.h5?sig=1", ""),
        ("default", ""),
    ],
)
def test_credentials_in_an_address_are_found_by_place_and_name(url: str, found: str) -> None:
    assert find_credentials(url) == found


@pytest.mark.parametrize(
    ("url", "is_opaque"),
    [
        ("https://host/w.h5?" + 15 * "a", False),
        ("https://host/w.h5?" + 16 * "a", True),
        ("https://host/w.h5?v=1&x=" + 16 * "a", True),
        ("https://host/w.h5#" + 16 * "a", True),
        ("https://host/" + 16 * "a", False),
        ("gs://bucket/w.h5?" + 16 * "a", False),
    ],
)
def test_long_query_can_be_a_token(url: str, is_opaque: bool) -> None:
    assert has_opaque_query(url) == is_opaque


def test_harmless_query_does_not_mask_its_words_elsewhere() -> None:
    secrets = secret_parts("https://host/w.h5?download=true&v=2024")

    assert mask("true in 2024, download", secrets) == "true in 2024, download"


def test_stream_hides_its_bytes_so_that_nothing_is_written_past_the_mask() -> None:
    stream: Any = MaskedStream(io.TextIOWrapper(io.BytesIO(), "ascii"), frozenset())

    assert not hasattr(stream, "buffer")
    assert stream.encoding == "ascii"
