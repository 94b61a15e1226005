"""Addresses and signatures of direct requests, compared with those of Amazon's client."""

import itertools
import re
import time
import urllib.parse
from datetime import UTC, datetime
from typing import Any

import pytest

from repot.storage.s3 import client, direct

pytest.importorskip("boto3", reason="pip install boto3")

NAMES = ("x", "a b/ä+%2F&=?#~.jpg", "//x", "a/../b")


@pytest.fixture
def connection(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    endpoint, region = request.param
    values = {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_SESSION_TOKEN": "token",
        "AWS_DEFAULT_REGION": region,
        "AWS_ENDPOINT_URL_S3": endpoint,
    }
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    client.state.clients.clear()
    yield client.connection()
    client.state.clients.clear()


@pytest.mark.parametrize(
    "connection",
    [
        ("", "eu-west-1"),
        ("", "us-east-1"),
        ("", "cn-north-1"),
        ("https://minio.test:443/base/", "us-east-1"),
    ],
    ids="-".join,
    indirect=True,
)
def test_requests_are_those_of_the_client(
    connection: client.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[Any] = []

    def keep(request: Any, **_: Any) -> None:
        sent.append(request)
        raise KeyboardInterrupt

    connection.client.meta.events.register("before-send.s3", keep)
    monkeypatch.setenv("AWS_REQUEST_PAYER", "requester")
    for bucket, name in itertools.product(("pictures", "pictures.test"), NAMES):
        address = direct.find_address(connection, bucket)
        assert address is not None
        with pytest.raises(KeyboardInterrupt):
            connection.client.get_object(
                Bucket=bucket, Key=name, IfMatch='"1"', Range="bytes=0-9", ChecksumMode="ENABLED"
            )
        expected = {key.lower(): text(value) for key, value in sent[-1].headers.items()}
        path = address.path + urllib.parse.quote(name, safe="/~")
        # Neither the scheme nor the usual port is part of what is compared.
        scheme = sent[-1].url.partition("://")[0]
        assert f"{scheme}://{address.server.host}{path}" == sent[-1].url.replace(":443/", "/")
        now = datetime.strptime(expected["x-amz-date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        headers = {"if-match": '"1"', "range": "bytes=0-9", "x-amz-checksum-mode": "ENABLED"}
        signed = direct.sign(
            headers | client.payer_headers(),
            method="GET",
            host=address.server.host,
            path=path,
            region=connection.client.meta.region_name,
            access_key="key",
            secret_key="secret",
            token="token",
            now=now.timestamp(),
        )
        assert signed.items() <= expected.items()
        signed_names = re.findall(r"SignedHeaders=([^,]*)", expected["authorization"])
        assert {*signed_names[0].split(";")} <= {*signed, "host"}


def text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


@pytest.mark.parametrize("connection", [("", "us-east-1")], indirect=True)
def test_unusual_buckets_are_left_to_the_client(
    connection: client.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert direct.find_address(connection, "pictures--use1-az4--x-s3") is None
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.test")
    assert direct.find_address(connection, "pictures") is None


def test_key_of_a_day_is_derived_once() -> None:
    direct._signing_key.cache_clear()
    for second in range(3):
        direct.sign(
            {},
            method="GET",
            host="a.test",
            path="/x",
            region="us-east-1",
            access_key="key",
            secret_key="secret",
            token="",
            now=time.time() // 86400 * 86400 + second,
        )
    assert direct._signing_key.cache_info().misses == 1
