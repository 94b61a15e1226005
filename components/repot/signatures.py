"""Signatures of versions: OpenSSF Model Signing, with a pair of elliptic keys, without any service.

    <version>/model.sig    signs model.json and every file that it lists; written before model.json,
                           so a version that exists is signed

The private key is the secret variable REPOT_SIGNING_PRIVATE_KEY, of the task that publishes; the
public key is the setting `signing_public_key`, wherever versions are used. Both are PEM texts, or
the paths of PEM files. With a public key, a version that is not signed by it is neither promoted,
rolled back to, predicted with nor exported. The program `model_signing` verifies a version, too.
Source: https://github.com/sigstore/model-transparency
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from repot import layout, storage
from repot.cluster_names import SIGNING_KEY_VARIABLE, name_sources
from repot.errors import ModelError, UsageError, advise
from repot.extras import install_command
from repot.layout import MODEL_RECORD_NAME, SIGNATURE_NAME
from repot.model_spec import MAX_RECORD_BYTES
from repot.settings.integrations import IntegrationSettings, variable_name
from repot.user_files import read_user_file

_PEM_START = "-----BEGIN "
_PUBLIC_KEY_VARIABLE = variable_name("signing_public_key")


def sign_version(version_uri: str, record_text: str) -> None:
    """Sign a version whose model.json is not written yet; do nothing without a private key.

    Args:
        version_uri: Folder of the version.
        record_text: Content that its model.json will have.

    Raises:
        UsageError: The key is not a private key of a supported curve, or the extra is missing.
        StorageError: The files cannot be read, or the signature cannot be written.
    """
    key = os.environ.get(SIGNING_KEY_VARIABLE, "").strip()
    if not key:
        return
    _import_library()
    from model_signing import hashing, signing

    with tempfile.TemporaryDirectory(prefix="repot-sign-") as scratch:
        folder = Path(scratch, "version")
        storage.download_folder(version_uri, folder)
        (folder / MODEL_RECORD_NAME).write_text(record_text, encoding="utf-8")
        signature_path = Path(scratch, SIGNATURE_NAME)
        unsigned = [folder / name for name in layout.ADDED_TO_VERSIONS if name != MODEL_RECORD_NAME]
        with _key_file(key, SIGNING_KEY_VARIABLE) as key_path:
            try:
                config = signing.Config().use_elliptic_key_signer(private_key=key_path)
            except (TypeError, ValueError) as err:  # TypeError: it needs a password
                raise UsageError(
                    f"{name_sources(SIGNING_KEY_VARIABLE)} must be a private key in PEM of one of "
                    "the curves secp256r1, secp384r1 and secp521r1, without a password; it is not. "
                    "Make one with `openssl ecparam -name prime256v1 -genkey -noout`."
                ) from err
        config.set_hashing_config(
            hashing.Config().set_ignored_paths(paths=unsigned, ignore_git_paths=False)
        )
        config.sign(folder, signature_path)
        storage.upload(signature_path, storage.join(version_uri, SIGNATURE_NAME))


def check_signature(version_uri: str) -> None:
    """Check that a version is signed by the configured key; without a public key, do nothing.

    Files that were added to the version later are not looked at, see
    `repot.model_registry.check_version`.

    Raises:
        ModelError: The version is not signed, or by another key, or a file has changed since.
        UsageError: The key is not a public key, or the extra is missing.
        StorageError: A file cannot be read.
    """
    key = IntegrationSettings.from_environment(os.environ).signing_public_key
    if not key:
        return
    signature_uri = storage.join(version_uri, SIGNATURE_NAME)
    storage.check_size(signature_uri, MAX_RECORD_BYTES)
    if not storage.exists(signature_uri):
        raise ModelError(
            f"A version must be signed where {name_sources(_PUBLIC_KEY_VARIABLE)} is set; "
            f"{version_uri} has no {SIGNATURE_NAME}. Use a version that was published with the "
            "private key."
        )
    _import_library()
    from model_signing import verifying

    with _key_file(key, _PUBLIC_KEY_VARIABLE) as key_path:
        try:
            config = verifying.Config().use_elliptic_key_verifier(public_key=key_path)
        except (TypeError, ValueError) as err:
            raise UsageError(
                f"{name_sources(_PUBLIC_KEY_VARIABLE)} must be a public key in PEM of one of the "
                "curves secp256r1, secp384r1 and secp521r1; it is not. Make it with `openssl ec "
                "-pubout` from the private key."
            ) from err
    config.set_ignore_unsigned_files(True)
    with _as_local_folder(version_uri) as folder:
        try:
            config.verify(folder, folder / SIGNATURE_NAME)
        except Exception as err:  # whatever a damaged signature leads to
            reason = " ".join(str(err).split()) or "the signature is another key's, or damaged"
            raise ModelError(
                f"A version must have the files that were signed, and a signature by the key of "
                f"{name_sources(_PUBLIC_KEY_VARIABLE)}; {version_uri} fails: {reason}. Restore it "
                "from a backup, or train again with a new `rebuild` text."
            ) from err


def _import_library() -> None:
    try:
        import model_signing  # noqa: F401
    except ImportError as err:
        advice = advise(
            on_machine=f"Install it with {install_command('signing')}.",
            in_pod="Use a cpu_image with it, or remove the key.",
        )
        raise UsageError(
            f"Signatures need the package model-signing; it cannot be imported ({err}). {advice}"
        ) from err


@contextmanager
def _key_file(key: str, variable: str) -> Iterator[Path]:
    """Yield the path of a PEM file, for a key that is its text or its path."""
    if not key.startswith(_PEM_START):
        path = Path(key).expanduser()
        try:
            read_user_file(path)
        except OSError as err:
            raise UsageError(
                f"{name_sources(variable)} must be a key in PEM, or the path of a file with one; "
                f"the file cannot be read: {err.strerror}. Correct it."
            ) from err
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="repot-key-") as scratch:
        path = Path(scratch, "key.pem")
        path.touch(mode=0o600)
        path.write_text(f"{key}\n")
        yield path


@contextmanager
def _as_local_folder(folder_uri: str) -> Iterator[Path]:
    if storage.is_local(folder_uri):
        yield storage.local_path(folder_uri)
        return
    with tempfile.TemporaryDirectory(prefix="repot-verify-") as scratch:
        storage.download_folder(folder_uri, Path(scratch))
        yield Path(scratch)
