"""Verify every file under a storage URI, or in any folder below it: `repot verify`.

    shards                          CRC32C of the receipts in manifest.json
    files of a version              SHA-256 in model.json
    other files of finished folders SHA-256 in checksums.json, see `repot.folder_checksums`
    features, predictions           SHA-256 in their names, see `repot.feature_store`
    originals of checkpoints        SHA-256 in the name of their folder
    files that are replaced         a checksum of their own, see `repot.json_record.checked_text`

Files of unfinished work and of earlier versions of repot have none; they are counted.
"""

import json
import re
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from repot import storage
from repot.checkpoint_files import files_sha256
from repot.composition import composition_name
from repot.errors import RepotError, UsageError
from repot.feature_store import part_checksum
from repot.folder_checksums import file_sha256, read_checksums
from repot.json_record import RecordError, check_text, has_checksum
from repot.layout import (
    CHECKSUMS_NAME,
    MANIFEST_NAME,
    MODEL_RECORD_NAME,
    ORIGINAL_FOLDER,
)
from repot.manifest import Manifest
from repot.model_registry import ModelRecord
from repot.progress import ProgressCounter

_NUM_READERS = 16
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True, slots=True)
class DamagedFile:
    """A file that is not as it was written.

    Attributes:
        uri: The file.
        problem: What is wrong with it, as a clause.
    """

    uri: str
    problem: str


@dataclass(frozen=True, kw_only=True, slots=True)
class StorageReport:
    """What was found.

    Attributes:
        num_verified, num_bytes: Files that have a checksum, and their size.
        damaged: Files that are damaged or missing, by URI.
        unverified: Files without a checksum, by URI.
    """

    num_verified: int
    num_bytes: int
    damaged: tuple[DamagedFile, ...]
    unverified: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Expected:
    """What is known of a file: SHA-256, the first digits of it, or CRC32C."""

    size_bytes: int | None = None
    sha256: str = ""
    crc32c: str = ""


@dataclass(kw_only=True, slots=True)
class _Findings:
    expected: dict[str, _Expected] = field(default_factory=dict)
    damaged: dict[str, str] = field(default_factory=dict)
    checked: set[str] = field(default_factory=set)


def verify_folder(folder_uri: str) -> StorageReport:
    """Read every file below a folder and compare it with its checksum.

    Raises:
        UsageError: There is no file.
        StorageError: The folder cannot be listed.
    """
    sizes = {info.uri: info.size_bytes for info in storage.list_objects(folder_uri)}
    if not sizes:
        raise UsageError(
            f"The location to verify must contain files; {folder_uri} has none. Check the name."
        )
    findings = _Findings()
    for uri in sizes:
        _expect(uri, sizes, findings)
    _check_originals(sizes, findings)
    missing = [uri for uri in findings.expected if uri not in sizes]
    for uri in missing:
        findings.damaged[uri] = "it is missing"
    found = [uri for uri in findings.expected if uri in sizes]
    counter = ProgressCounter("verify", len(found), unit="files")
    with ThreadPoolExecutor(_NUM_READERS) as pool:
        problems = pool.map(lambda uri: _compare(uri, sizes[uri], findings.expected[uri]), found)
        for uri, problem in zip(found, problems, strict=True):
            counter.add()
            if problem:
                findings.damaged.setdefault(uri, problem)
    verified = {*found, *findings.checked, *findings.damaged} & sizes.keys()
    return StorageReport(
        num_verified=len(verified),
        num_bytes=sum(sizes[uri] for uri in verified),
        damaged=tuple(
            DamagedFile(uri=uri, problem=problem)
            for uri, problem in sorted(findings.damaged.items())
        ),
        unverified=tuple(sorted(sizes.keys() - verified)),
    )


def _expect(uri: str, uris: dict[str, int], findings: _Findings) -> None:
    """Add what a file states about itself or others; note if it is damaged itself."""
    folder_uri, _, name = uri.rpartition("/")
    try:
        if name == CHECKSUMS_NAME:
            checksums = read_checksums(folder_uri)
            findings.checked.add(uri)
            for file in checksums.files if checksums else ():
                findings.expected[storage.join(folder_uri, file.name)] = _Expected(
                    size_bytes=file.size_bytes, sha256=file.sha256
                )
        elif name == MANIFEST_NAME:
            for receipt in Manifest.from_text(storage.read_text(uri)).shards:
                if storage.join(folder_uri, composition_name(receipt.shard)) in uris:
                    continue  # Its bytes are in packs, which checksums.json lists.
                findings.expected[storage.join(folder_uri, receipt.shard)] = _Expected(
                    size_bytes=receipt.size_bytes, crc32c=receipt.crc32c
                )
        elif name.endswith(".json"):
            _expect_of_json(uri, findings)
        elif checksum := part_checksum(name):
            findings.expected[uri] = _Expected(sha256=checksum)
    except (RepotError, RecordError, UnicodeDecodeError) as err:
        findings.damaged[uri] = str(err)


def _expect_of_json(uri: str, findings: _Findings) -> None:
    text = storage.read_text(uri)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as err:
        raise RecordError(f"it is not JSON ({err})") from err
    if not isinstance(value, dict) or not has_checksum(value):
        return
    check_text(text)
    findings.checked.add(uri)
    folder_uri, _, name = uri.rpartition("/")
    if name == MODEL_RECORD_NAME:
        for file in ModelRecord.from_text(text).files:
            findings.expected[storage.join(folder_uri, file.name)] = _Expected(
                size_bytes=file.size_bytes, sha256=file.sha256
            )


def _check_originals(uris: dict[str, int], findings: _Findings) -> None:
    """Check the original files of checkpoints, whose folder is named by their checksum."""
    originals: defaultdict[str, list[str]] = defaultdict(list)
    for uri in uris:
        parts = uri.split("/")
        if parts[-2:-1] == [ORIGINAL_FOLDER] and _SHA256.fullmatch(parts[-3]):
            originals[parts[-3]].append(uri)
    for sha256, files in originals.items():
        digests = {uri.rpartition("/")[2]: file_sha256(uri) for uri in files}
        if files_sha256(digests) == sha256:
            findings.checked.update(files)
        else:
            problem = "it, or a file beside it, was changed: their SHA-256 is another one"
            findings.damaged.update(dict.fromkeys(files, problem))


def _compare(uri: str, size_bytes: int, expected: _Expected) -> str:
    """Return what is wrong with a file, as a clause; "" for nothing."""
    if expected.size_bytes not in (None, size_bytes):
        return f"it has {size_bytes} bytes instead of {expected.size_bytes}"
    try:
        is_equal = (
            file_sha256(uri).startswith(expected.sha256)
            if expected.sha256
            else storage.read_crc32c_hex(uri) == expected.crc32c
        )
    except RepotError as err:
        return str(err)
    kind = "SHA-256" if expected.sha256 else "CRC32C"
    return "" if is_equal else f"its content was changed: its {kind} is another one"


def lines(report: StorageReport) -> Iterator[str]:
    """Yield the report as lines of text."""
    for each in report.damaged:
        yield f"damaged  {each.uri}: {each.problem}"
    yield (
        f"{report.num_verified:,} files verified ({report.num_bytes / 1e9:.2f} GB), "
        f"{len(report.damaged):,} damaged or missing, {len(report.unverified):,} without a checksum"
    )
