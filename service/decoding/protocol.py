"""The protocol of API and decoder process over a socket: files in, pixels or words out.

Numbers are unsigned, little-endian. To the decoder: the number of files, the length of each, the files. From it, for
each file in order, a reply: a kind and two numbers. After `DECODED` the numbers are height and width, and digest,
resized pixels and pixels follow; after a refusal they are 0 and a length, and so many bytes of words follow.
`GIVEN_BACK` ends the replies: neither this file nor a later one was decoded, because their turn is over. Nothing is
pickled, and the sizes in a reply are checked: a file of unknown origin may have taken the process over.
"""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import BinaryIO

import numpy as np

from models.image import AbsurdDimensions, ImageError, NotAnImage, Pixels, TooCostly, Undecodable
from models.spec import ImageLimits

READY = b"R"
DECODED, GIVEN_BACK, FIRST_REFUSAL = 0, 1, 2
_REFUSALS: tuple[type[ImageError], ...] = (NotAnImage, Undecodable, AbsurdDimensions, TooCostly)
_COUNT = struct.Struct("<I")
_REPLY = struct.Struct("<BII")
_DIGEST = 32  # bytes of a SHA-256
_MOST_WORDS = 4096  # bytes
_JOINED = 1 << 16  # bytes; less is copied together, to be sent at once


@dataclass(frozen=True)
class Rules:
    """Limits and settings of a decoder process, given to it when it starts.

    side         of the backbone's input, pixels.
    cpu_seconds  for one image.
    memory       bytes for decoding one, beside what the process takes by itself.
    nice         how much nicer it is than the API.
    """

    limits: ImageLimits
    side: int
    cpu_seconds: float
    memory: int
    nice: int = 0

    def to_json(self) -> str:
        """As JSON, for the command line of a decoder process."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Rules:
        """The rules of that JSON."""
        said = json.loads(text)
        limits = said.pop("limits")
        return cls(limits=ImageLimits(**{**limits, "formats": tuple(limits["formats"])}), **said)


@dataclass(frozen=True)
class DecodedImage:
    """An image: its pixels [height, width, 3], their digest, and the same resized: uint8 [3, side, side]."""

    pixels: Pixels
    digest: str
    resized: Pixels


class Garbled(Exception):
    """A reply of a decoder process breaks the protocol."""


def send_files(to: socket.socket, files: Sequence[bytes]) -> None:
    """Send files to a decoder process."""
    lengths = b"".join(_COUNT.pack(len(file)) for file in files)
    _send(to, [_COUNT.pack(len(files)), lengths, *files])


def receive_files(stream: BinaryIO) -> list[bytes] | None:
    """The next files that the API sends, read by a decoder process; None once the API has closed the socket."""
    head = stream.read(_COUNT.size)
    if len(head) < _COUNT.size:
        return None
    (count,) = _COUNT.unpack(head)
    lengths = [length for (length,) in _COUNT.iter_unpack(stream.read(count * _COUNT.size))]
    return [stream.read(length) for length in lengths]


def send_decoded(to: socket.socket, found: DecodedImage) -> None:
    """Reply to the API with a decoded image."""
    height, width, _ = found.pixels.shape
    head = _REPLY.pack(DECODED, height, width) + bytes.fromhex(found.digest)
    _send(to, [head, found.resized.tobytes(), found.pixels.data.cast("B")])


def send_refusal(to: socket.socket, error: ImageError) -> None:
    """Reply to the API that a file is refused, and why."""
    words = str(error).encode()[:_MOST_WORDS]
    kind = FIRST_REFUSAL + _REFUSALS.index(type(error))
    _send(to, [_REPLY.pack(kind, 0, len(words)), words])


def send_given_back(to: socket.socket) -> None:
    """Tell the API that this file and later ones were not decoded."""
    to.sendall(_REPLY.pack(GIVEN_BACK, 0, 0))


def receive_reply(of: socket.socket, rules: Rules) -> DecodedImage | ImageError | None:
    """The next reply, read by the API; None for `GIVEN_BACK`.

    Raises EOFError if the process has ended, Garbled if the reply breaks the protocol.
    """
    kind: int
    kind, first, second = _REPLY.unpack(_receive(of, _REPLY.size))
    if kind == GIVEN_BACK:
        return None
    if kind == DECODED:
        return _receive_decoded(of, first, second, rules)
    if kind - FIRST_REFUSAL >= len(_REFUSALS) or second > _MOST_WORDS:
        raise Garbled
    return _REFUSALS[kind - FIRST_REFUSAL](bytes(_receive(of, second)).decode(errors="replace"))


def _receive_decoded(of: socket.socket, height: int, width: int, rules: Rules) -> DecodedImage:
    shorter, longer = sorted((height, width))
    if not 2 <= shorter <= rules.limits.max_side or longer > (rules.limits.max_aspect + 1) * shorter:
        raise Garbled
    digest = bytes(_receive(of, _DIGEST)).hex()
    size = rules.side * rules.side * 3
    small = np.frombuffer(_receive(of, size), np.uint8).reshape(3, rules.side, rules.side)
    pixels = np.frombuffer(_receive(of, height * width * 3), np.uint8).reshape(height, width, 3)
    return DecodedImage(pixels, digest, small)


def _send(to: socket.socket, parts: Sequence[bytes | memoryview]) -> None:
    if sum(len(part) for part in parts) <= _JOINED:
        to.sendall(b"".join(parts))
        return
    for part in parts:
        to.sendall(part)


def _receive(of: socket.socket, size: int) -> bytearray:
    found = bytearray(size)
    view = memoryview(found)
    while view:
        count = of.recv_into(view)
        if count == 0:
            raise EOFError
        view = view[count:]
    return found
