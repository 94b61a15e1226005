"""Normalise picture files in a sandboxed process that a hostile file cannot escape from.

Picture decoders are large C libraries that parse untrusted bytes. The process that runs them has
no network, files, credentials or access to other processes, and its memory and time are limited;
see `repot.sandbox`. It is a fork of a `DecoderHost`, a process that has imported the libraries, has
no credentials either and never sees a picture: a second decoder, or the one after a crash, takes
milliseconds to start and shares most of its memory.

A file whose decoder crashes or exceeds a limit is rejected, and the next file gets a new decoder.
Answers are untrusted: they are checked and treated as data only.
"""

from repot.picture_decoder.decoder import DecoderLimits, PictureDecoder
from repot.picture_decoder.host import DecoderHost
from repot.picture_decoder.protocol import MAX_FILES, MAX_FILES_BYTES

__all__ = ["MAX_FILES", "MAX_FILES_BYTES", "DecoderHost", "DecoderLimits", "PictureDecoder"]
