"""Read and write persistent objects on gs://bucket/path, s3://bucket/path and local disks alike.

A URI (str) is gs://bucket/path, s3://bucket/path or an absolute local path, usually without a
trailing slash; `normalise` makes one, `join` a longer one. Writes are atomic. Of racing create-only
writes and swaps, exactly one succeeds. Transfers are verified by CRC32C, and objects with
`Content-Encoding: gzip` are decompressed when they are read. Every failure is a StorageError that
states what failed, where, and what to do. All functions are safe to use from several threads and
processes.
"""

from repot.storage.backend import (
    EMPTY_FOLDER,
    Content,
    ObjectInfo,
    OtherEntry,
    StoredObject,
    UnfinishedUpload,
)
from repot.storage.checksums import crc32c_hex
from repot.storage.local.files import file_crc32c_hex, write_atomically
from repot.storage.local.objects import local_info
from repot.storage.operations import (
    abort_upload,
    as_local_file,
    check_size,
    check_writable,
    copy,
    copy_folder,
    delete,
    delete_empty_folders,
    delete_folder,
    download,
    download_folder,
    exists,
    link,
    list_objects,
    list_unfinished_uploads,
    read_bytes,
    read_clock,
    read_crc32c_hex,
    read_json,
    read_object,
    read_range,
    read_text,
    scan_folder,
    scan_stored,
    stat,
    swap_bytes,
    upload,
    upload_folder,
    write_bytes,
    write_json,
    write_text,
)
from repot.storage.uris import (
    folder_prefix,
    is_local,
    join,
    local_path,
    normalise,
    parent,
    relative_name,
)

__all__ = [
    "EMPTY_FOLDER",
    "Content",
    "ObjectInfo",
    "OtherEntry",
    "StoredObject",
    "UnfinishedUpload",
    "abort_upload",
    "as_local_file",
    "check_size",
    "check_writable",
    "copy",
    "copy_folder",
    "crc32c_hex",
    "delete",
    "delete_empty_folders",
    "delete_folder",
    "download",
    "download_folder",
    "exists",
    "file_crc32c_hex",
    "folder_prefix",
    "is_local",
    "join",
    "link",
    "list_objects",
    "list_unfinished_uploads",
    "local_info",
    "local_path",
    "normalise",
    "parent",
    "read_bytes",
    "read_clock",
    "read_crc32c_hex",
    "read_json",
    "read_object",
    "read_range",
    "read_text",
    "relative_name",
    "scan_folder",
    "scan_stored",
    "stat",
    "swap_bytes",
    "upload",
    "upload_folder",
    "write_atomically",
    "write_bytes",
    "write_json",
    "write_text",
]
