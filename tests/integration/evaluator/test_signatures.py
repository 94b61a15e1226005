"""Signed versions: published with a private key, used only if the public key fits."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from repot import layout
from repot.errors import ModelError, UsageError
from repot.evaluator.evaluate import evaluate_run
from repot.evaluator.exports.export import export_model
from repot.evaluator.versions import promote, promote_by_hand, rollback
from repot.model_registry import ChampionChange
from repot.predictions import predict_files
from repot.signatures import check_signature
from tests.integration.evaluator.colours import MakeRun, save_picture

TIME = "2026-11-27T14:05:00Z"
PRIVATE, PUBLIC = "REPOT_SIGNING_PRIVATE_KEY", "REPOT_SIGNING_PUBLIC_KEY"


class Keys:
    """A pair of keys as PEM texts."""

    def __init__(self) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        self.private = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ).decode()
        self.public = (
            key.public_key()
            .public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            )
            .decode()
        )


@pytest.fixture(autouse=True)
def _library() -> None:
    pytest.importorskip("model_signing", reason="pip install model-signing")


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> Keys:
    """Return keys that are configured."""
    keys = Keys()
    monkeypatch.setenv(PRIVATE, keys.private)
    monkeypatch.setenv(PUBLIC, keys.public)
    return keys


@pytest.fixture
def publish(make_run: MakeRun, storage_uri: str) -> Callable[[str], Path]:
    """Return a function that publishes a version and returns its folder."""

    def make(version: str) -> Path:
        make_run(version)
        evaluate_run(
            storage_uri=storage_uri, dataset_id="colours", training_id=version, model_name="m"
        )
        return Path(layout.model_uri(storage_uri, "m", version))

    return make


def promote_version(storage_uri: str, version: str) -> None:
    change = ChampionChange(version=version, action="promote", time=TIME)
    promote(storage_uri, "m", change, expected_champion="none")


def predict(model: Path, picture: Path) -> int:
    lines: list[str] = []
    return predict_files(
        str(model), [str(picture)], output_format="jsonl", top=1, write=lines.append
    ).exit_code


def test_signed_version_is_used(
    keys: Keys, publish: Callable[[str], Path], storage_uri: str, tmp_path: Path
) -> None:
    version = publish("one")
    save_picture(tmp_path / "red.png", "red")

    promote_version(storage_uri, "one")

    assert predict(version, tmp_path / "red.png") == 0
    # Files that serve the version come later, and are not signed.
    (version / "serving").mkdir()
    (version / "serving" / "x").write_text("")
    check_signature(str(version))
    # The library's own program agrees; it hashes what the signature lists.
    key_path = tmp_path / "key.pub"
    key_path.write_text(keys.public)
    command = [sys.executable, "-m", "model_signing", "verify", "key", str(version)]
    command += ["--signature", str(version / "model.sig"), "--public_key", str(key_path)]
    command += ["--ignore_unsigned_files"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["model.keras", "model.json", "model.sig", "model_card.md"])
def test_changed_version_is_refused(
    name: str, keys: Keys, publish: Callable[[str], Path], storage_uri: str, tmp_path: Path
) -> None:
    version = publish("one")
    data = bytearray((version / name).read_bytes())
    data[len(data) // 2] ^= 1
    (version / name).write_bytes(data)

    with pytest.raises(
        ModelError, match=r"must have the files that (were|it was) (signed|published)|valid"
    ):
        promote_version(storage_uri, "one")
    with pytest.raises(ModelError, match=rf"{version} fails: "):
        predict(version, tmp_path / "red.png")
    with pytest.raises(ModelError, match=rf"{version} fails: "):
        export_model("keras", model_uri=str(version), dataset_uri="", output_uri="")


def test_unsigned_version_is_refused_where_a_key_is_set(
    publish: Callable[[str], Path], storage_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = publish("one")
    assert not (version / "model.sig").exists()
    promote_version(storage_uri, "one")
    monkeypatch.setenv(PUBLIC, Keys().public)

    publish("two")
    with pytest.raises(ModelError, match=r"must be signed where REPOT_SIGNING_PUBLIC_KEY is set"):
        promote_by_hand(storage_uri, "m", "two", reason="a test", time=TIME)
    monkeypatch.delenv(PUBLIC)
    promote_by_hand(storage_uri, "m", "two", reason="a test", time=TIME)
    monkeypatch.setenv(PUBLIC, Keys().public)
    with pytest.raises(ModelError, match=r"one has no model\.sig"):
        rollback(storage_uri, "m", time=TIME)


def test_key_of_somebody_else_is_refused(
    keys: Keys, publish: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    version = publish("one")
    other = tmp_path / "other.pem"
    other.write_text(Keys().public)
    monkeypatch.setenv(PUBLIC, str(other))  # the path of a file

    with pytest.raises(ModelError, match=r"fails: Key mismatch"):
        check_signature(str(version))


@pytest.mark.parametrize("scheme", ["gcs", "s3"])
def test_versions_in_buckets_are_verified(
    scheme: str, keys: Keys, publish: Callable[[str], Path], request: pytest.FixtureRequest
) -> None:
    from repot import storage

    version = publish("one")
    uri = f"{request.getfixturevalue(scheme)}/one"
    storage.copy_folder(str(version), uri)
    check_signature(uri)
    storage.write_text(f"{uri}/labels.txt", "red\n")

    with pytest.raises(ModelError, match=r"labels\.txt"):
        check_signature(uri)


@pytest.mark.parametrize("key", ["/none/key.pem", "-----BEGIN NONSENSE-----"])
@pytest.mark.parametrize("variable", [PRIVATE, PUBLIC])
def test_unusable_key_is_an_error_that_does_not_show_it(
    key: str,
    variable: str,
    keys: Keys,
    publish: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    version = publish("one")
    monkeypatch.setenv(variable, key)

    def use() -> None:
        publish("two")
        check_signature(str(version))

    with pytest.raises(UsageError, match=variable) as raised:
        use()
    assert "NONSENSE" not in str(raised.value)
    assert os.environ[variable] == key
