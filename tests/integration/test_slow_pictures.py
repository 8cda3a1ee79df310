"""Pictures that are slow to decode: others are answered meanwhile, and nothing is done for a client that has gone."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from tests.integration.harness import STOP_SECONDS, TINY, Picture, Service, assert_problem, until, upload
from tests.odd_files import scans, slow

DECODER = "service.decoding.child"
SLOW = {"image": ("slow.pgm", slow(3100))}  # seconds of a processor's time


def decoders(service: Service) -> list[psutil.Process]:
    return [process for process in service.family() if DECODER in process.cmdline()]


def is_at_work(process: psutil.Process) -> bool:
    """Starting one takes less."""
    try:
        return sum(process.cpu_times()[:2]) > 3.0
    except psutil.NoSuchProcess:
        return False


def at_work(service: Service) -> list[psutil.Process]:
    return [process for process in decoders(service) if is_at_work(process)]


@pytest.fixture(autouse=True, scope="module")
def enough_is_trained(service: Service, pictures: list[Picture]) -> Iterator[None]:
    service.contribute(pictures[:6], "slow-pictures")
    service.settle()
    yield
    service.client.delete("/owners/slow-pictures")


def test_costly_files_are_refused_in_words_and_others_are_answered_meanwhile(
    service: Service, pictures: list[Picture], owner: str
) -> None:
    answers: list[httpx.Response] = []

    def send() -> None:
        form = {"label": "a", "owner": owner}
        answers.append(service.client.post("/samples", files=SLOW, data=form))

    sending = threading.Thread(target=send)
    sending.start()
    small = service.client_with(service.key)
    with small:
        while sending.is_alive():
            answer = small.post("/predict", files=upload("image", pictures[:1]))
            assert answer.status_code == 200, answer.text
    sending.join()
    assert_problem(answers[0], answers[0].status_code)
    assert answers[0].status_code in (422, 503)  # a busy machine's deadline comes before five seconds of its time
    bomb = {"image": ("bomb.jpg", scans(3000))}
    assert_problem(service.client.post("/predict", files=bomb), 422, "more than 100 scans")
    assert service.pages("/samples", owner=owner) == []


PATIENT = {  # nothing but a client's going, and the API's end, stops a decoder here
    "OUBLI_INTAKE__DECODE_SECONDS": "600",
    "OUBLI_SERVING__DEADLINE_SECONDS": "600",
    "OUBLI_INTAKE__MAX_BYTES": "30000000",
}
VERY_SLOW = slow(5000)


def request_of(service: Service, path: str) -> bytes:
    """A picture as the body itself."""
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {service.key}\r\n"
    head += f"Content-Type: image/x-portable-graymap\r\nContent-Length: {len(VERY_SLOW)}\r\n\r\n"
    return head.encode() + VERY_SLOW


@pytest.mark.thorough
def test_a_decoder_works_neither_for_a_client_that_has_gone_nor_for_an_api_that_has(tmp_path: Path) -> None:
    with Service(tmp_path, env={**TINY, **PATIENT}) as service:
        service.start()
        for path in ("/predict", "/samples?label=a&owner=gone"):
            with socket.create_connection(("127.0.0.1", service.port)) as connection:
                connection.sendall(request_of(service, path))
                working = until(lambda: at_work(service), what="a decoder at work")
            until(lambda: not any(process.is_running() for process in working), what="its end")  # noqa: B023
        assert service.pages("/samples") == []

        with socket.create_connection(("127.0.0.1", service.port)) as connection:
            connection.sendall(request_of(service, "/samples?label=a&owner=gone"))
            until(lambda: at_work(service), what="a decoder at work")
            assert service.stop() < STOP_SECONDS  # and its decoders are not left behind, or `stop` fails
        assert "Traceback" not in service.log, service.log[-4000:]
