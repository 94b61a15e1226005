import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from repot_pipelines.ci.masking import MaskedStream, mask, read_secrets

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


def test_longest_secret_is_masked_first() -> None:
    assert mask("abcdefgh-ijklmnop", frozenset({"abcdefgh", "abcdefgh-ijklmnop"})) == "***"


def test_stream_masks_output_of_rich() -> None:
    inner = io.StringIO()
    stream: Any = MaskedStream(inner, frozenset({"s3cret-value"}))
    console = Console(file=stream)

    console.print("it is s3cret-value, yes", markup=False)

    assert inner.getvalue() == "it is ***, yes\n"
    assert not console.is_terminal
