"""Object stores behind TLS: certificate authorities that are not built in, and bad certificates."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.certificates import Authority
from tests.integration.faulty_proxy import FaultyProxy, run_proxy

# Writes and reads an object, and prints the error instead of raising it.
PROGRAM = """
import sys
from repot import storage
from repot.errors import StorageError
try:
    storage.write_bytes(sys.argv[1], b"1")
    print(storage.read_bytes(sys.argv[1]))
except StorageError as err:
    print(err)
"""
STORES = ("gcs", "s3")


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture(params=STORES)
def bucket(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(request.param))


@pytest.fixture
def proxy(
    bucket: str, request: pytest.FixtureRequest, authority: Authority
) -> Iterator[FaultyProxy]:
    """Run a proxy with TLS in front of the store."""
    name = "s3_endpoint" if bucket.startswith("s3:") else "gcs_endpoint"
    context = authority.server_context()
    with run_proxy(request.getfixturevalue(name)) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        yield server


def use_store(bucket: str, endpoint: str, **variables: object) -> str:
    """Write and read an object in a new process; return its output."""
    base = {
        "PATH": os.environ["PATH"],
        "HOME": "/nonexistent",
        "NO_PROXY": "*",
        "AWS_ACCESS_KEY_ID": "repot",
        "AWS_SECRET_ACCESS_KEY": "repot",
    }
    name = "AWS_ENDPOINT_URL_S3" if bucket.startswith("s3:") else "STORAGE_EMULATOR_HOST"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM, f"{bucket}/x"],
        env={**base, name: endpoint, **{key: str(value) for key, value in variables.items()}},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert "trying again" not in done.stderr
    assert done.stdout.count("\n") == 1
    return done.stdout.strip()


def https(proxy: FaultyProxy) -> str:
    return proxy.url.replace("http:", "https:")


@pytest.mark.parametrize(
    ("bucket", "variable"),
    [
        ("gcs", "SSL_CERT_FILE"),
        ("gcs", "REQUESTS_CA_BUNDLE"),
        ("s3", "SSL_CERT_FILE"),
        ("s3", "REQUESTS_CA_BUNDLE"),
        ("s3", "AWS_CA_BUNDLE"),
    ],
    indirect=["bucket"],
)
def test_ca_bundle_of_the_environment_is_trusted(
    variable: str, bucket: str, proxy: FaultyProxy, authority: Authority
) -> None:
    output = use_store(bucket, https(proxy), **{variable: authority.path})
    assert output == "b'1'"


def test_unknown_authority_is_explained_and_not_retried(bucket: str, proxy: FaultyProxy) -> None:
    output = use_store(bucket, https(proxy))
    variable = "AWS_CA_BUNDLE" if bucket.startswith("s3:") else "SSL_CERT_FILE"
    assert (
        f"{bucket}/x cannot be written: the certificate of {https(proxy)} is not trusted" in output
    )
    assert f"set {variable} to a PEM file" in output
    assert proxy.requests == []


def test_certificate_of_another_host_is_explained(
    bucket: str, proxy: FaultyProxy, authority: Authority
) -> None:
    endpoint = https(proxy).replace("127.0.0.1", "localhost")
    output = use_store(bucket, endpoint, SSL_CERT_FILE=authority.path)
    assert f"the certificate of {endpoint} is not trusted" in output
    assert "Use a host name that the certificate is made out to." in output


def test_expired_certificate_is_explained(
    bucket: str, authority: Authority, tmp_path: Path
) -> None:
    assert tmp_path
    with FaultyProxy("http://127.0.0.1:1") as server:
        context = authority.server_context(days=-1)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        output = use_store(bucket, https(server), SSL_CERT_FILE=authority.path)
        server.shutdown()
    assert "is not trusted (certificate has expired). Check this machine's clock" in output


def test_server_without_tls_is_explained(bucket: str, request: pytest.FixtureRequest) -> None:
    name = "s3_endpoint" if bucket.startswith("s3:") else "gcs_endpoint"
    endpoint = request.getfixturevalue(name).replace("http:", "https:")
    output = use_store(bucket, endpoint)
    assert f"{endpoint} does not accept a TLS connection" in output
    assert "whether it is https:// or http://" in output


@pytest.mark.parametrize("text", [None, "", "no certificate"])
def test_invalid_ca_bundle_is_named(text: str | None, bucket: str, tmp_path: Path) -> None:
    path = tmp_path / "ca.pem"
    if text is not None:
        path.write_text(text)
    output = use_store(bucket, "https://127.0.0.1:1", SSL_CERT_FILE=path)
    reason = "does not exist" if text is None else "is not a PEM file of certificates"
    assert (
        "SSL_CERT_FILE must name a file of CA certificates in PEM form; "
        f"got SSL_CERT_FILE='{path}', which {reason}" in output
    )
