"""Everything that lasts is read and written here: `gs://bucket/path`, `s3://bucket/path` and local files alike.

A URI (str) is gs://bucket/path, s3://bucket/path or an absolute local path, without a trailing slash: `normalise` makes
one. Objects
appear whole or not at all, create-only writes and swaps have one winner, and bytes are checked by CRC32C on the way.
Every failure is a StorageError that says what, where and what to do. Safe in threads and processes.
"""

from repot.storage.backend import ObjectInfo
from repot.storage.checksums import crc32c_hex, file_crc32c_hex
from repot.storage.folders import (
    check_writable,
    copy_folder,
    delete_folder,
    download_folder,
    upload_folder,
)
from repot.storage.objects import (
    as_local_file,
    copy,
    delete,
    download,
    exists,
    list_objects,
    read_bytes,
    read_crc32c_hex,
    read_json,
    read_text,
    stat,
    swap_bytes,
    upload,
    write_bytes,
    write_json,
    write_text,
)
from repot.storage.uris import is_local, join, local_path, normalise, relative_name

__all__ = [
    "ObjectInfo",
    "as_local_file",
    "check_writable",
    "copy",
    "copy_folder",
    "crc32c_hex",
    "delete",
    "delete_folder",
    "download",
    "download_folder",
    "exists",
    "file_crc32c_hex",
    "is_local",
    "join",
    "list_objects",
    "local_path",
    "normalise",
    "read_bytes",
    "read_crc32c_hex",
    "read_json",
    "read_text",
    "relative_name",
    "stat",
    "swap_bytes",
    "upload",
    "upload_folder",
    "write_bytes",
    "write_json",
    "write_text",
]
