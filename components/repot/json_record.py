"""Typed JSON documents: frozen dataclasses that one stage writes and another reads.

Every file that crosses a stage (manifest, plan, training record, evaluation, verdict, ...) is one
dataclass that inherits from JsonRecord. Reading is strict: unknown keys, missing keys and wrong
types are errors that name the field.
"""

import dataclasses
import difflib
import hashlib
import json
import re
from typing import Any, Self, TypeVar

import dacite

from repot import storage
from repot.errors import DataError, NotFoundError, RepotError, UsageError

_Record = TypeVar("_Record", bound="JsonRecord")


_CHECKSUM = "sha256_of_the_rest"
_NO_CHECKSUM = "0" * 64
_CHECKSUM_PAIR = re.compile(rf'"{_CHECKSUM}": "([0-9a-f]{{64}})"')


class RecordError(ValueError):
    """A JSON value does not have the fields or types of its record."""


class JsonRecord:
    """Converts a frozen dataclass, with nested dataclasses and tuples, to and from JSON."""

    __slots__ = ()

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON-able values."""
        return dataclasses.asdict(self)  # type: ignore[call-overload, no-any-return]

    def to_text(self) -> str:
        """Return canonical JSON on one line: equal records give equal text."""
        return json.dumps(self.to_json(), sort_keys=True)

    @classmethod
    def from_json(cls, value: object) -> Self:
        """Build the record from a parsed JSON value.

        Raises:
            RecordError: It is not an object, a key is unknown or missing, or a type is wrong.
        """
        if not isinstance(value, dict):
            raise RecordError(f"{cls.__name__} must be a JSON object; got {type(value).__name__}")
        try:
            record = dacite.from_dict(cls, value, _STRICT)
            _check_arrays(record, value, cls.__name__)
        except (dacite.DaciteError, OverflowError, TypeError, ValueError) as err:
            # The conversion of a wrong value to a tuple raises TypeError or ValueError, that of a
            # huge whole number to a float OverflowError.
            raise RecordError(f"{cls.__name__}: {err}") from err
        return record

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Build the record from JSON text.

        Raises:
            RecordError: The text is not JSON, or see `from_json`.
        """
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as err:
            raise RecordError(f"{cls.__name__} must be JSON; {err}") from err
        if isinstance(value, dict) and has_checksum(value):
            check_text(text)
            value.pop(_CHECKSUM)
        return cls.from_json(value)


def read_record(
    uri: str,
    record: type[_Record],
    *,
    error: type[RepotError] = DataError,
    advice: str = "",
    max_bytes: int | None = None,
) -> _Record:
    """Read one record from storage.

    Args:
        uri: The JSON file.
        record: Its class.
        error: Raised when the file is not such a record.
        advice: Last sentence of that error: what to do.
        max_bytes: Largest size, for a file that a stranger may have written; None for no limit.

    Raises:
        NotFoundError: There is no such file.
        StorageError: It cannot be read, or is larger.
    """
    if max_bytes is not None:
        storage.check_size(uri, max_bytes)
    text = storage.read_text(uri)
    try:
        return record.from_text(text)
    except (RecordError, UsageError) as err:  # Settings in a record check themselves.
        advice = advice or "Delete it and run again."
        raise error(f"{uri} must be a valid {record.__name__}; got {err}. {advice}") from err


def read_or_none(uri: str, record: type[_Record]) -> _Record | None:
    """Return a record, or None if there is no such file, or another version of repot wrote it."""
    try:
        return record.from_text(storage.read_text(uri))
    except (NotFoundError, RecordError):
        return None


def write_record(uri: str, record: JsonRecord) -> None:
    """Write one record to storage as JSON."""
    storage.write_text(uri, record_text(record))


def record_text(record: JsonRecord) -> str:
    """Return the content of the file that `write_record` writes."""
    return f"{json.dumps(record.to_json(), indent=2, sort_keys=True, allow_nan=False)}\n"


def checked_text(value: dict[str, Any], *, indent: int | None = 2) -> str:
    """Return JSON that verifies itself: one key is the SHA-256 of the rest of the text.

    `JsonRecord.from_text` checks it. For a file that is replaced, and so cannot be in the
    checksums.json of its folder.
    """
    text = json.dumps({**value, _CHECKSUM: _NO_CHECKSUM}, indent=indent, sort_keys=True) + "\n"
    return text.replace(_NO_CHECKSUM, hashlib.sha256(text.encode()).hexdigest())


def has_checksum(value: dict[str, Any]) -> bool:
    """Return whether a JSON object was made by `checked_text`, even if that key is damaged."""
    keys = [key for key in value if abs(len(key) - len(_CHECKSUM)) <= 1]
    return bool(difflib.get_close_matches(_CHECKSUM, keys, cutoff=0.8))


def check_text(text: str) -> None:
    """Check the checksum of a text that `checked_text` made.

    Raises:
        RecordError: It is another one, or there is none.
    """
    found = _CHECKSUM_PAIR.search(text)
    zeros = _CHECKSUM_PAIR.sub(f'"{_CHECKSUM}": "{_NO_CHECKSUM}"', text)
    if found is None or found[1] != hashlib.sha256(zeros.encode()).hexdigest():
        raise RecordError(
            "the file must have the content that it was written with; its checksum is another one"
        )


def _check_arrays(built: Any, value: Any, path: str) -> None:
    """Raise a TypeError where a tuple was built from anything but an array, such as a text."""
    if dataclasses.is_dataclass(built):
        for field in dataclasses.fields(built):
            if field.name in value:
                part = getattr(built, field.name)
                _check_arrays(part, value[field.name], f"{path}.{field.name}")
    elif isinstance(built, tuple):
        if not isinstance(value, list | tuple):
            raise TypeError(f"{path} must be an array; got {type(value).__name__}")
        # The items of one array have one type.
        if built and not isinstance(built[0], str | int | float):
            for part, item in zip(built, value, strict=True):
                _check_arrays(part, item, f"{path}[]")


def _float(value: Any) -> Any:
    """Accept a whole number where a float is declared: JSON and KFP write 1.0 as 1."""
    if isinstance(value, bool):  # an int, for Python
        raise dacite.WrongTypeError(float, value)
    return float(value) if isinstance(value, int) else value


_STRICT = dacite.Config(strict=True, cast=[tuple], type_hooks={float: _float})
