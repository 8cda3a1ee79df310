"""A decoder process: `python -m service.decoding.child RULES DESCRIPTOR`, started by `service.decoding.decoders`.

The kernel bounds it: a timer of CPU time ends it when an image takes more than its budget, a limit on its address
space makes an allocation fail, and it ends with the API, however that ends: its standard input is a pipe that only the
API keeps open, and the signal of its closing is not handled. It ignores the signals that a terminal or systemd sends
to all: the API decides when decoding is over.
"""

from __future__ import annotations

import fcntl
import os
import resource
import select
import signal
import socket
import sys
import time
import warnings
from contextlib import suppress
from pathlib import Path

from models.image import ImageError, decode, pixel_digest, register_heif, resized
from service.decoding import protocol
from service.decoding.protocol import DecodedImage, Rules

TURN_SECONDS = 0.05  # of several files that came together, what is not begun by then is given back
_LIFELINE = 0  # descriptor


def main(rules: Rules, api: socket.socket) -> None:
    """Decode what the API sends until it closes the socket."""
    _end_with_the_api()
    if "HEIC" in rules.limits.formats:
        register_heif()  # before memory is bounded: libraries are no part of an image
    _bound(rules)
    api.sendall(protocol.READY)
    _be_silent()
    stream = api.makefile("rb")
    while (files := protocol.receive_files(stream)) is not None:
        _answer(api, files, rules)


def _answer(api: socket.socket, files: list[bytes], rules: Rules) -> None:
    over_at = time.monotonic() + TURN_SECONDS
    for place, data in enumerate(files):
        if place and time.monotonic() > over_at:
            protocol.send_given_back(api)
            return
        signal.setitimer(signal.ITIMER_PROF, rules.cpu_seconds)  # CPU time; its signal ends the process
        try:
            pixels = decode(data, rules.limits)
            found = DecodedImage(pixels, pixel_digest(pixels), resized(pixels, rules.side))
        except ImageError as error:
            protocol.send_refusal(api, error)
        else:
            protocol.send_decoded(api, found)
        signal.setitimer(signal.ITIMER_PROF, 0.0)


def _end_with_the_api() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    for number in (signal.SIGIO, signal.SIGPROF):
        signal.signal(number, signal.SIG_DFL)
    fcntl.fcntl(_LIFELINE, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(_LIFELINE, fcntl.F_SETFL, fcntl.fcntl(_LIFELINE, fcntl.F_GETFL) | os.O_ASYNC)
    if select.select([_LIFELINE], [], [], 0)[0]:
        sys.exit()  # it was closed before the kernel was asked to tell


def _bound(rules: Rules) -> None:
    os.nice(rules.nice)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file would hold people's pictures
    with suppress(OSError):  # not on Linux, or not allowed
        Path("/proc/self/oom_score_adj").write_text("1000")  # where memory runs out, the API is the last to go
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + rules.memory
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _be_silent() -> None:
    """Discard what libraries print about a client's file: it belongs in no log of the service."""
    warnings.simplefilter("ignore")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stderr.fileno())
    os.close(nowhere)


if __name__ == "__main__":
    main(Rules.from_json(sys.argv[1]), socket.socket(fileno=int(sys.argv[2])))
