"""TLS: the certificate authorities that clients trust, and certificate errors."""

import os
import ssl
from pathlib import Path

from repot.errors import StorageError, advise

CA_VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")
"""Environment variables that name a file of CA certificates, by precedence."""

# https://docs.openssl.org/3.0/man3/X509_STORE_CTX_get_error/
_NOT_YET_VALID, _EXPIRED, _OTHER_HOST, _OTHER_ADDRESS = 9, 10, 62, 64
# Errors of a handshake that the next attempt repeats. Others, such as the end of the connection in
# the middle of a handshake, may pass.
_PERMANENT_REASONS = (
    "HTTP_REQUEST",
    "NO_PROTOCOLS_AVAILABLE",
    "SSLV3_ALERT_HANDSHAKE_FAILURE",
    "TLSV13_ALERT_CERTIFICATE_REQUIRED",
    "TLSV1_ALERT_PROTOCOL_VERSION",
    "TLSV1_ALERT_UNKNOWN_CA",
    "UNKNOWN_PROTOCOL",
    "UNSUPPORTED_PROTOCOL",
    "WRONG_VERSION_NUMBER",
)


def find_ca_bundle(*variables: str) -> str | None:
    """Return the file of CA certificates that the first of these environment variables names.

    Args:
        variables: Names of environment variables, by precedence.

    Returns:
        The path of a PEM file, or of a folder of certificates; None if no variable is set.

    Raises:
        StorageError: There is no such file, or it is not a PEM file of certificates.
    """
    for variable in variables:
        path = os.environ.get(variable)
        if path:
            _check_bundle(variable, Path(path))
            return path
    return None


def is_permanent(err: BaseException) -> bool:
    """Return whether an error of a request is a TLS error that the next attempt would repeat."""
    tls_error = _find_tls_error(err)
    return isinstance(tls_error, ssl.SSLCertVerificationError) or (
        tls_error is not None and tls_error.reason in _PERMANENT_REASONS
    )


def describe_tls_error(err: BaseException, endpoint: str, variable: str) -> str | None:
    """Return the reason and the advice for a permanent TLS error, without the final full stop.

    Args:
        err: The error of a request.
        endpoint: The address of the service.
        variable: The environment variable for a file of CA certificates.

    Returns:
        None if `err` is no such error.
    """
    tls_error = _find_tls_error(err) if is_permanent(err) else None
    if tls_error is None:
        return None
    if not isinstance(tls_error, ssl.SSLCertVerificationError):
        return (
            f"{endpoint} does not accept a TLS connection ({tls_error.reason}). "
            "Check the address: whether it is https:// or http://, and its port"
        )
    reason = f"the certificate of {endpoint} is not trusted ({tls_error.verify_message})"
    if tls_error.verify_code in (_NOT_YET_VALID, _EXPIRED):
        return f"{reason}. Check this machine's clock, or have the certificate renewed"
    if tls_error.verify_code in (_OTHER_HOST, _OTHER_ADDRESS):
        return f"{reason}. Use a host name that the certificate is made out to"
    advice = advise(
        on_machine=f"set {variable} to a PEM file with its certificate",
        in_pod="build container images that contain its certificate and set "
        f"{variable} to that file, and use them as cpu_image and trainer_image",
    )
    return (
        f"{reason}. If a proxy or the service has a certificate authority (CA) of its own, {advice}"
    )


def _check_bundle(variable: str, path: Path) -> None:
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if path.is_dir():
            return
        context.load_verify_locations(cafile=path)
    except (OSError, ValueError) as err:
        reason = "is not a PEM file of certificates" if path.is_file() else "does not exist"
        raise StorageError(
            f"{variable} must name a file of CA certificates in PEM form; got "
            f"{variable}={str(path)!r}, which {reason}. Correct or unset it."
        ) from err


def _find_tls_error(err: BaseException) -> ssl.SSLError | None:
    """Return the TLS error inside an error of requests, urllib3, botocore or google.auth."""
    from urllib3.util.ssl_match_hostname import CertificateError

    stack, seen = [err], set[int]()
    while stack:
        inner = stack.pop()
        if isinstance(inner, ssl.SSLError):
            return inner
        if isinstance(inner, CertificateError):  # urllib3's own check of the host name
            mismatch = ssl.SSLCertVerificationError(str(inner))
            mismatch.verify_code, mismatch.verify_message = _OTHER_HOST, str(inner)
            return mismatch
        if id(inner) not in seen:
            seen.add(id(inner))
            wrapped = (
                inner.__cause__,
                getattr(inner, "reason", None),
                getattr(inner, "kwargs", {}).get("error"),
                *inner.args,
            )
            stack += [part for part in wrapped if isinstance(part, BaseException)]
    return None
