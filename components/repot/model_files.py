"""Make the files of a saved model a function of the model: equal models give equal bytes.

Keras writes the time and the addresses of shared objects into a .keras archive. TensorFlow gives
each SavedModel a random id, and names its functions with a counter of everything that the process
has made: a resumed training counts differently. With those, nobody could tell from a checksum
whether two trainings gave the same model.
"""

import itertools
import json
import re
import shutil
import zipfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from google.protobuf.message import Message

from repot.layout import KERAS_NAME, SAVED_MODEL_FOLDER

_GRAPH_NAME = "saved_model.pb"
_FINGERPRINT_NAME = "fingerprint.pb"
_NUMBER = re.compile(r"_(\d+)")
# Names a captured variable by the number of its tensor.
_TENSOR_NAME_KEY = "_user_specified_name"
# The earliest time that a zip archive can state.
_NO_TIME = (1980, 1, 1, 0, 0, 0)


def make_reproducible(folder: Path) -> None:
    """Remove what depends on time and process from model.keras and saved_model/ in a folder."""
    _rewrite_keras(folder / KERAS_NAME)
    make_saved_model_reproducible(folder / SAVED_MODEL_FOLDER)


def make_saved_model_reproducible(folder: Path) -> None:
    """Remove what depends on time and process from the folder of a SavedModel."""
    _rewrite_graph(folder / _GRAPH_NAME)
    _rewrite_fingerprint(folder)


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


def _rewrite_graph(path: Path) -> None:
    """Number functions and captured tensors of a SavedModel in their order, and sort functions."""
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    saved_model = SavedModel.FromString(path.read_bytes())
    for meta_graph in saved_model.meta_graphs:
        functions = meta_graph.graph_def.library.function
        _rename_strings(meta_graph, _renumber_functions([f.signature.name for f in functions]))
        # TensorFlow keeps them in the order of a hash of their names.
        functions.sort(key=lambda function: function.signature.name)
        arguments = [
            attributes.attr[_TENSOR_NAME_KEY]
            for function in functions
            for attributes in function.arg_attr.values()
            if _TENSOR_NAME_KEY in attributes.attr and attributes.attr[_TENSOR_NAME_KEY].s.isdigit()
        ]
        numbers = _ranks(int(argument.s) for argument in arguments)
        for argument in arguments:
            argument.s = str(numbers[int(argument.s)]).encode()
    path.write_bytes(saved_model.SerializeToString(deterministic=True))


def _ranks(numbers: Iterable[int]) -> dict[int, int]:
    """Return the position of each number in sorted order."""
    return {number: rank for rank, number in enumerate(sorted(set(numbers)))}


def _renumber_functions(names: Sequence[str]) -> Callable[[str], str]:
    """Return the function that replaces the number at the end of each name by its rank.

    A name can be part of a longer one, `<name>___redundant_placeholder0`.
    """
    numbers = {int(found[-1]): name for name in names if (found := _NUMBER.findall(name))}
    ranks = _ranks(numbers)

    def rename(text: str) -> str:
        def replace(match: re.Match[str]) -> str:
            number = int(match[1])
            is_name = number in numbers and text[: match.end()].endswith(numbers[number])
            return f"_{ranks[number]}" if is_name else match[0]

        return _NUMBER.sub(replace, text)

    return rename


def _rename_strings(message: Any, rename: Callable[[str], str]) -> None:
    """Apply a function to every text in a protobuf message, the keys of maps included."""
    for field, value in message.ListFields():
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            _rename_map(value, field.message_type.fields_by_name["value"], rename)
        elif field.message_type is not None:
            for each in [value] if isinstance(value, Message) else value:
                _rename_strings(each, rename)
        elif isinstance(value, str):
            setattr(message, field.name, rename(value))
        elif field.type == field.TYPE_STRING:
            value[:] = [rename(each) for each in value]


def _rename_map(entries: Any, value_field: Any, rename: Callable[[str], str]) -> None:
    for key in list(entries):
        if value_field.message_type is not None:
            _rename_strings(entries[key], rename)
        elif value_field.type == value_field.TYPE_STRING:
            entries[key] = rename(entries[key])
        new_key = rename(key) if isinstance(key, str) else key
        if new_key != key:
            if value_field.message_type is not None:
                entries[new_key].CopyFrom(entries[key])
            else:
                entries[new_key] = entries[key]
            del entries[key]


def _rewrite_fingerprint(folder: Path) -> None:
    from tensorflow.core.protobuf.fingerprint_pb2 import FingerprintDef

    # The public interface writes a fingerprint only while it saves a model.
    from tensorflow.python.saved_model.pywrap_saved_model import fingerprinting

    fingerprint = FingerprintDef.FromString(fingerprinting.CreateFingerprintDef(str(folder)))
    # The id has to differ between models: the hashes of graph and variables do.
    fingerprint.uuid = f"{fingerprint.saved_model_checksum}{fingerprint.checkpoint_hash}"
    (folder / _FINGERPRINT_NAME).write_bytes(fingerprint.SerializeToString(deterministic=True))
