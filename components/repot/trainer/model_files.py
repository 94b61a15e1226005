"""Make the files of a saved model a function of the model: equal models give equal bytes.

Keras writes the time and the addresses of shared objects into a .keras archive, and TensorFlow
gives each SavedModel a random id. With those, nobody could tell from a checksum whether two
trainings gave the same model.
"""

import itertools
import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

from repot.layout import KERAS_NAME, SAVED_MODEL_FOLDER

_FINGERPRINT_NAME = "fingerprint.pb"
# The earliest time that a zip archive can state.
_NO_TIME = (1980, 1, 1, 0, 0, 0)


def make_reproducible(folder: Path) -> None:
    """Remove times, addresses and random ids from model.keras and saved_model/ in a folder."""
    _rewrite_keras(folder / KERAS_NAME)
    _rewrite_fingerprint(folder / SAVED_MODEL_FOLDER / _FINGERPRINT_NAME)


def _rewrite_keras(path: Path) -> None:
    new_path = path.with_suffix(".new")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(new_path, "w") as new:
        for info in old.infolist():
            entry = zipfile.ZipInfo(info.filename, _NO_TIME)
            # Known before the entry is written, because more than 2 GiB need a larger header.
            entry.file_size = info.file_size
            if info.filename.endswith(".json"):
                value = _without_process(json.loads(old.read(info)))
                new.writestr(entry, json.dumps(value))
            else:
                with old.open(info) as source, new.open(entry, "w") as target:
                    shutil.copyfileobj(source, target, length=1 << 20)
    new_path.replace(path)


def _without_process(config: Any) -> Any:
    """Return a JSON value of a .keras archive without the time, and with shared objects numbered.

    Keras identifies a shared object by its address in the process that saved the model.
    """
    numbers: dict[int, int] = {}
    counter = itertools.count(1)

    def convert(value: Any) -> Any:
        if isinstance(value, dict):
            return {
                key: convert_field(key, each) for key, each in value.items() if key != "date_saved"
            }
        return [convert(each) for each in value] if isinstance(value, list) else value

    def convert_field(key: str, value: Any) -> Any:
        if key != "shared_object_id":
            return convert(value)
        if value not in numbers:
            numbers[value] = next(counter)
        return numbers[value]

    return convert(config)


def _rewrite_fingerprint(path: Path) -> None:
    from tensorflow.core.protobuf.fingerprint_pb2 import FingerprintDef

    fingerprint = FingerprintDef.FromString(path.read_bytes())
    # The id has to differ between models: the hashes of graph and variables do.
    fingerprint.uuid = f"{fingerprint.saved_model_checksum}{fingerprint.checkpoint_hash}"
    path.write_bytes(fingerprint.SerializeToString(deterministic=True))
