"""Object stores behind TLS: certificate authorities that are not built in, and bad certificates."""

import datetime
import ipaddress
import os
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

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


class Authority:
    """A certificate authority of its own, as of a company's proxy or of a MinIO in a cluster."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Test authority")])
        self.path = folder / "authority.pem"
        certificate = self._build("Test authority", self._key, days=1, is_authority=True)
        self.path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def server_context(self, *, address: str = "127.0.0.1", days: int = 1) -> ssl.SSLContext:
        """Return the context of a server with a certificate for an address."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._build(address, key, days=days, is_authority=False)
        pem = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        path = self._folder / "server.pem"
        path.write_bytes(pem + certificate.public_bytes(serialization.Encoding.PEM))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        return context

    def _build(
        self, subject: str, key: ec.EllipticCurvePrivateKey, *, days: int, is_authority: bool
    ) -> x509.Certificate:
        end = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=days)
        names: list[x509.GeneralName] = []
        if not is_authority:
            names.append(x509.IPAddress(ipaddress.ip_address(subject)))
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(end - datetime.timedelta(days=10))
            .not_valid_after(end)
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        else:
            usage = x509.KeyUsage(
                digital_signature=True,
                key_cert_sign=True,
                crl_sign=True,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                encipher_only=False,
                decipher_only=False,
            )
            builder = builder.add_extension(usage, critical=True)
        return builder.sign(self._key, hashes.SHA256())


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


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "AWS_CA_BUNDLE"])
def test_ca_bundle_of_the_environment_is_trusted(
    variable: str, bucket: str, proxy: FaultyProxy, authority: Authority
) -> None:
    if variable == "AWS_CA_BUNDLE" and not bucket.startswith("s3:"):
        pytest.skip("a variable of Amazon's tools")
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
