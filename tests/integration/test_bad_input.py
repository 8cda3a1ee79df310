"""What strangers send. Whatever it is: an answer in words, nothing half-stored, nothing of the machinery shown."""

from __future__ import annotations

import io
import json
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote
from uuid import UUID

import httpx
import numpy as np
import pytest
from PIL import Image

from models.image import register_heif
from tests.integration.harness import Picture, Service, assert_problem, oubli, until, upload

NOBODY = str(UUID(int=7))


@pytest.fixture(autouse=True)
def nothing_is_half_stored(service: Service) -> Iterator[None]:
    yield

    def whole() -> bool:
        # Erased objects are destroyed a moment after the answer, so this is waited for.
        listed = {sample["id"] for sample in service.pages("/samples")}
        kept = {path.name.split(".")[0] for path in service.objects()}
        return listed == kept and service.status()["samples"] == len(listed)

    until(whole, what="as many files as samples")
    assert "Traceback" not in service.log, service.log[-4000:]


@pytest.fixture(autouse=True, scope="module")
def enough_is_trained(service: Service, pictures: list[Picture]) -> Iterator[None]:
    service.contribute(pictures[:6], "bad-input")
    service.settle()
    yield
    service.client.delete("/owners/bad-input")


def file_of(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def photograph(mode: str = "RGB", size: tuple[int, int] = (40, 30)) -> Image.Image:
    ramp = np.linspace(0, 255, size[0] * size[1] * 3).reshape(size[1], size[0], 3).astype("uint8")
    return Image.fromarray(ramp).convert(mode)


def send(service: Service, data: bytes, *, owner: str = "somebody", label: str = "thing") -> httpx.Response:
    return service.client.post("/samples", files={"image": ("image", data)}, data={"label": label, "owner": owner})


def bomb() -> bytes:
    """A PNG of 60,000 x 60,000 pixels in a few hundred bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 9999))
        + chunk(b"IEND", b"")
    )


# ------------------------------------------------------------------------------------------------------ images

REFUSED: dict[str, tuple[Callable[[], bytes], int]] = {
    "text": (lambda: b"this is no image", 415),
    "nothing": (lambda: b"", 415),
    "pdf": (lambda: b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", 415),
    "svg": (lambda: b"<svg xmlns='http://www.w3.org/2000/svg'/>", 415),
    "icon": (lambda: file_of(photograph("RGBA", (16, 16)), "ICO"), 415),
    "truncated jpeg": (lambda: file_of(photograph(), "JPEG")[:-80], 422),
    "truncated png": (lambda: file_of(photograph(), "PNG")[:60], 422),
    "bomb": (bomb, 422),
    "one pixel": (lambda: file_of(photograph(size=(1, 1)), "PNG"), 422),
    "a thread": (lambda: file_of(photograph(size=(400, 2)), "PNG"), 422),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_usable_image_is_refused(service: Service, case: str) -> None:
    make, status = REFUSED[case]
    assert_problem(send(service, make()), status)
    assert service.pages("/samples", owner="somebody") == []
    answer = service.client.post("/predict", files={"image": ("image.png", make())})
    assert_problem(answer, status)


def exif_turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return file_of(photograph(), "JPEG", exif=exif)


def animated() -> bytes:
    frames = [photograph(size=(32, 32)).rotate(90 * i) for i in range(3)]
    return file_of(frames[0], "GIF", save_all=True, append_images=frames[1:])


def deep_grey() -> bytes:
    return file_of(Image.fromarray(np.linspace(0, 65535, 900).reshape(30, 30).astype("uint16")), "PNG")


def heic() -> bytes:
    register_heif()
    return file_of(photograph(), "HEIF")


ACCEPTED: dict[str, Callable[[], bytes]] = {
    "cmyk": lambda: file_of(photograph("CMYK"), "JPEG"),
    "16 bit": deep_grey,
    "palette": lambda: file_of(photograph("P"), "PNG"),
    "transparent": lambda: file_of(photograph("RGBA"), "WEBP"),
    "bilevel": lambda: file_of(photograph("1"), "TIFF"),
    "animated": animated,
    "turned": exif_turned,
    "ppm": lambda: file_of(photograph(), "PPM"),
    "bmp": lambda: file_of(photograph(), "BMP"),
    "heic": heic,
    "avif": lambda: file_of(photograph(), "AVIF"),
}


@pytest.mark.parametrize("case", ACCEPTED)
def test_unusual_images_are_accepted(service: Service, owner: str, case: str) -> None:
    answer = send(service, ACCEPTED[case](), owner=owner)
    assert answer.status_code == 201, answer.text
    predicted = service.client.post("/predict", files={"image": ("image", ACCEPTED[case]())})
    assert predicted.status_code == 200, predicted.text


# ------------------------------------------------------------------------------------------------------- sizes


def test_a_large_body_is_refused_by_its_length(service: Service) -> None:
    started = time.monotonic()
    answer = send(service, bytes(50_000_000))
    assert_problem(answer, 413)
    assert time.monotonic() - started < 30


def test_a_large_body_is_refused_while_it_comes(service: Service) -> None:
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        yield b'--cut\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n'
        while sent < 200_000_000:
            sent += 100_000
            yield bytes(100_000)

    headers = {"Content-Type": "multipart/form-data; boundary=cut"}
    try:
        answer = service.client.post("/samples", content=endless(), headers=headers)
    except httpx.TransportError:  # closed on us while we were sending: refused all the same
        pass
    else:
        assert_problem(answer, 413)
    assert sent < 100_000_000  # it did not listen to the end


def test_a_large_file_in_a_batch_is_refused_alone(service: Service, pictures: list[Picture], owner: str) -> None:
    metadata = json.dumps([{"label": "a", "owner": owner}] * 2)
    files = [("images", ("big.png", bytes(10_000_001))), *upload("images", pictures[:1])]
    items = service.client.post("/samples/batch", files=files, data={"metadata": metadata}).json()["items"]
    assert [item["status"] for item in items] == [413, 201]


# -------------------------------------------------------------------------------------------------- what is said


@pytest.mark.parametrize(
    "data", [{}, {"label": "a"}, {"owner": "a"}, {"label": "", "owner": "a"}, {"label": "a", "owner": ""},
             {"label": "   ", "owner": "a"}, {"label": "a", "owner": " \t "}, {"label": "a" * 129, "owner": "a"},
             {"label": "a", "owner": "a" * 129}, {"label": "a" * 100_000, "owner": "a"},
             {"label": "a\0b", "owner": "a"}, {"label": "a", "owner": "a\0b"},
             {"label": "a\nb", "owner": "a"}, {"label": "a", "owner": "\x1b[2J"}],
    ids=lambda data: ",".join(f"{name}={value[:9]!r}" for name, value in data.items()) or "nothing",
)  # fmt: skip
def test_impossible_words_are_refused(service: Service, pictures: list[Picture], data: dict[str, str]) -> None:
    before = service.status()
    answer = service.client.post("/samples", files=upload("image", pictures[:1]), data=data)
    assert_problem(answer, 422)
    after = service.status()
    assert (after["samples"], after["owners"]) == (before["samples"], before["owners"])


def test_missing_and_misplaced_files_are_refused(service: Service) -> None:
    words = {"label": "a", "owner": "b"}
    assert_problem(service.client.post("/samples", data=words), 422, "image")
    assert_problem(service.client.post("/samples", data={**words, "image": "no file"}), 422, "image")
    assert_problem(service.client.post("/samples", json=words), 422)
    assert_problem(service.client.post("/samples"), 422)
    assert_problem(service.client.post("/predict"), 422)
    assert_problem(service.client.post("/predict", data={"image": "no file"}), 422)
    assert_problem(service.client.post("/samples/batch", data={"metadata": "[]"}), 422)
    garbled = {"Content-Type": "multipart/form-data"}
    assert_problem(service.client.post("/samples", content=b"garbage", headers=garbled), 400)
    unended = {"Content-Type": "multipart/form-data; boundary=x"}
    answer = service.client.post("/samples", content=b"--x\r\ngarbage", headers=unended)
    assert answer.status_code in (400, 422)
    assert_problem(answer, answer.status_code)


REFERENCES = ["a/b", "/a", "a/", "a//b", "with spaces", "ünïcödé 猫 🐈", "100%", "%2F", "...", "../../etc/passwd",
              "./a", "a?b#c", "a&b=c", "a+b", "'; DROP TABLE samples; --", "<script>", "x" * 128,
              "\\", "null", "0"]  # fmt: skip


@pytest.mark.parametrize("reference", REFERENCES)
def test_any_owner_can_be_forgotten_by_name(service: Service, pictures: list[Picture], reference: str) -> None:
    answer = send(service, pictures[0].data, owner=reference)
    assert answer.status_code == 201, answer.text
    assert answer.json()["owner"] == reference
    assert [s["owner"] for s in service.pages("/samples", owner=reference)] == [reference]
    # Dots too: clients resolve `..` in a path before they send it.
    path = quote(reference, safe="").replace(".", "%2E")
    erased = service.client.delete(f"/owners/{path}")
    assert erased.status_code == 202, erased.text
    assert erased.json()["subject"] == {"owner": reference}
    assert service.pages("/samples", owner=reference) == []


def test_outer_blanks_do_not_hide_an_owner(service: Service, pictures: list[Picture], owner: str) -> None:
    answer = send(service, pictures[0].data, owner=f"  {owner} ", label=" a ")
    assert (answer.json()["owner"], answer.json()["label"]) == (owner, "a")
    assert len(service.pages("/samples", owner=f" {owner}")) == 1
    assert service.client.delete(f"/owners/%20{owner}%20").status_code == 202


def test_unknown_things_are_not_found(service: Service) -> None:
    for path in (f"/samples/{NOBODY}", f"/erasures/{NOBODY}", f"/clusters/{NOBODY}"):
        assert_problem(service.client.get(path), 404)
    assert_problem(service.client.delete(f"/samples/{NOBODY}"), 404)
    assert_problem(service.client.delete("/owners/nobody"), 404)
    assert_problem(service.client.delete(f"/owners/{'x' * 129}"), 422)
    assert_problem(service.client.delete("/owners/%00"), 422)
    assert_problem(service.client.get("/samples?owner=%00"), 422)
    assert_problem(service.client.post("/erasures", json={"samples": [NOBODY]}), 404)


@pytest.mark.parametrize("text", ["x", "00000000", "%00", "123e4567-e89b-12d3-a456-42661417400", "é", "a b"])
def test_malformed_ids_are_refused(service: Service, text: str) -> None:
    for path in (f"/samples/{text}", f"/erasures/{text}", f"/clusters/{text}", f"/samples?cluster={text}"):
        assert_problem(service.client.get(path), 422)
    assert_problem(service.client.delete(f"/samples/{text}"), 422)


# ------------------------------------------------------------------------------------------------------ batches


def test_bad_files_of_a_batch_are_named(service: Service, pictures: list[Picture], owner: str) -> None:
    files = [
        *upload("images", pictures[:1]),
        ("images", ("text.png", b"no image")),
        *upload("images", pictures[1:2]),
        ("images", ("empty.png", b"")),
        ("images", ("cut.png", file_of(photograph(), "PNG")[:60])),
        *upload("images", pictures[2:4]),
    ]
    described = [{"label": f"l{i}", "owner": owner} for i in range(7)]
    described[6]["owner"] = "   "
    answer = service.client.post("/samples/batch", files=files, data={"metadata": json.dumps(described)})
    assert answer.status_code == 200
    items = answer.json()["items"]
    assert [item["status"] for item in items] == [201, 415, 201, 415, 422, 201, 422]
    for item in items:
        assert ("sample" in item) == (item["status"] == 201)
        if "problem" in item:
            assert item["problem"]["status"] == item["status"]
            assert item["problem"]["detail"]
    listed = service.pages("/samples", owner=owner)
    assert [sample["label"] for sample in listed] == ["l0", "l2", "l5"]
    only_bad = service.client.post(
        "/samples/batch", files=[files[1]], data={"metadata": json.dumps([{"label": "a", "owner": owner}])}
    )
    assert [item["status"] for item in only_bad.json()["items"]] == [415]


@pytest.mark.parametrize(
    "metadata", ["", "no json", "{}", "null", "[1]", '[{"label": "a"}]', "[]", '[{"label": "a", "owner": 1}]',
                 '[{"label": "a", "owner": "b"}, {"label": "a", "owner": "b"}]', "[" * 100_000,
                 '[{"label": "\\ud800", "owner": "b"}]'],
    ids=lambda text: text[:20] or "nothing",
)  # fmt: skip
def test_impossible_metadata_is_refused(service: Service, pictures: list[Picture], metadata: str) -> None:
    answer = service.client.post("/samples/batch", files=upload("images", pictures[:1]), data={"metadata": metadata})
    assert_problem(answer, 422)


def test_too_many_files_are_refused(service: Service, pictures: list[Picture]) -> None:
    metadata = json.dumps([{"label": "a", "owner": "b"}] * 257)
    many = upload("images", [pictures[0]] * 257)
    assert_problem(service.client.post("/samples/batch", files=many, data={"metadata": metadata}), 422)
    assert_problem(service.client.post("/predict", files=upload("image", [pictures[0]] * 65)), 422)
    assert service.client.post("/predict", files=upload("image", [pictures[0]] * 64)).status_code == 200
    crowd = upload("images", [pictures[0]] * 1001)
    answer = service.client.post("/samples/batch", files=crowd, data={"metadata": metadata})
    assert answer.status_code in (400, 422)
    assert_problem(answer, answer.status_code)


def test_copies_beyond_measure_are_refused(service: Service, owner: str) -> None:
    data = file_of(photograph(size=(33, 33)), "PNG")
    statuses = [send(service, data, owner=owner).status_code for _ in range(15)]
    assert statuses == sorted(statuses)
    assert set(statuses) == {201, 409}
    assert_problem(send(service, data, owner=owner), 409)


@pytest.mark.parametrize("top_k", ["0", "-1", "1001", "many", "1.5", ""])
def test_impossible_top_k_is_refused(service: Service, pictures: list[Picture], top_k: str) -> None:
    answer = service.client.post(f"/predict?top_k={top_k}", files=upload("image", pictures[:1]))
    assert_problem(answer, 422, "top_k")


def test_one_bad_image_of_a_prediction_is_named(service: Service, pictures: list[Picture]) -> None:
    files = [*upload("image", pictures[:1]), ("image", ("text.png", b"no image"))]
    problem = assert_problem(service.client.post("/predict", files=files), 415)
    assert [error["field"] for error in problem["errors"]] == ["image[1]"]


@pytest.mark.parametrize("key", ["", "x" * 256, "tab\there"])
def test_impossible_idempotency_keys_are_refused(service: Service, pictures: list[Picture], key: str) -> None:
    answer = service.client.post(
        "/samples",
        files=upload("image", pictures[:1]),
        data={"label": "a", "owner": "b"},
        headers={"Idempotency-Key": key},
    )
    assert_problem(answer, 422)


# --------------------------------------------------------------------------------------------------------- keys


def test_keys_open_what_they_are_for_and_no_more(service: Service, pictures: list[Picture], owner: str) -> None:
    made = oubli("keys", "create", "--scopes", "read", "--name", "reader", "--data", service.data, env=service.env)
    assert made.code == 0, made.err
    secret, key_id = made.out.strip(), made.err.split()[0]
    with service.client_with(secret) as reader:
        assert reader.get("/status").status_code == 200
        assert_problem(reader.delete(f"/owners/{owner}"), 403, "erase")
        assert_problem(reader.post("/predict", files=upload("image", pictures[:1])), 403, "predict")
        words = {"label": "a", "owner": owner}
        assert_problem(reader.post("/samples", files=upload("image", pictures[:1]), data=words), 403, "samples")
        revoked = oubli("keys", "revoke", key_id, "--data", service.data, env=service.env)
        assert revoked.code == 0, revoked.err
        assert_problem(reader.get("/status"), 401)
    assert service.pages("/samples", owner=owner) == []


@pytest.mark.parametrize("key", [None, "wrong", "oubli_" + "0" * 43, "x" * 5000])
def test_wrong_keys_open_nothing(service: Service, key: str | None) -> None:
    calls = [("GET", "/samples"), ("GET", "/status"), ("GET", "/metrics"), ("DELETE", "/owners/bad-input"),
             ("POST", "/predict"), ("GET", f"/erasures/{NOBODY}"), ("GET", "/clusters")]  # fmt: skip
    with service.client_with(key) as stranger:
        for method, path in calls:
            assert_problem(stranger.request(method, path), 401)
        basic = stranger.get("/status", headers={"Authorization": "Basic b3VibGk6b3VibGk="})
        assert_problem(basic, 401)
    assert len(service.pages("/samples", owner="bad-input")) == 6
