"""Read PICTURES, whatever it is: detect the format from the content, and list the pictures.

A location is a folder or a file. A file is an archive, a manifest or a TFRecord shard; a folder
contains label folders, or a metadata file of Hugging Face, or tar files in the WebDataset format,
or TFRecord shards. An archive is treated like a folder.
"""

import dataclasses
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeVar, cast

from repot import progress, storage
from repot.errors import NoBucketError, UsageError, join_names
from repot.manifest import SPLITS, Rejection, Split
from repot.picture_result import EXEMPT_REASONS
from repot.planner.folders import PICTURE_SUFFIXES, assign_labels, is_system_file
from repot.planner.inputs import archives, manifests, tables, tfrecords, webdataset
from repot.planner.inputs.inventory import CandidatePicture, Inventory
from repot.planner.inputs.problems import WrongRows
from repot.planner.inputs.rows import find_pictures
from repot.planner.listing import FoundFile, Listing, PictureRoots, list_files, list_folder
from repot.records import BOX_EDGES, Box
