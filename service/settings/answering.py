"""Settings of what clients meet: intake, erasures, serving and HTTP."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from models.spec import FORMATS, KNOWN_FORMATS, ImageLimits
from service.settings.group import Group

MAX_BATCH = 256  # images of one `POST /samples/batch`


class ServingSettings(Group):
    """Settings of predictions."""

    withdrawn: Literal["closed_form", "nearest", "abstain"] = Field(
        "closed_form",
        description="Who answers for a cluster without a prompt: the `closed_form` tier, the `nearest` prompt, or 503.",
    )
    max_batch: int = Field(16, ge=1, le=1024, description="Most images in a batch; on a GPU try 64 or more.")
    max_queue: int = Field(
        512,
        ge=1,
        description="Most images that are prepared or wait; beyond it, 429. The only request of a key at that moment "
        "may exceed it by a quarter.",
    )
    max_wait: float = Field(
        0.005, ge=0, le=1, description="Seconds that a batch waits for images which are being prepared."
    )
    deadline_seconds: float = Field(
        10.0, gt=0, description="An image that has waited so long, decoding included, is refused (503)."
    )
    threads: int = Field(2, ge=1, le=256, description="CPU threads of serving and intake, a batch each.")
    nice: int = Field(5, ge=0, le=19, description="Niceness of these threads: requests, and deletions, go first.")
    drain_seconds: float = Field(
        0.0, ge=0, description="How long an API that was told to stop goes on answering; `oubli serve` does not wait."
    )
    finish_seconds: int = Field(
        30, ge=1, description="... and how long requests under way then have to end; under `oubli serve` 2."
    )


class IntakeSettings(Group):
    """Limits of intake."""

    max_bytes: int = Field(10_000_000, ge=1, description="Largest accepted image file, bytes.")
    max_request_bytes: int = Field(300_000_000, ge=1, description="Largest accepted request, bytes.")
    max_pixels: int = Field(50_000_000, ge=4, description="Most pixels of an accepted image.")
    max_side: int = Field(512, ge=16, description="Shorter side of what is kept; larger images are reduced.")
    decode_seconds: float = Field(
        5.0, gt=0, description="A processor's time for decoding one image; one that takes more is refused (422)."
    )
    formats: str = Field(",".join(FORMATS), description="Accepted kinds of files; `PLAIN_PPM` can be added.")
    threads: int = Field(
        16, ge=1, le=256, description="Requests that are taken in at once, a thread each; one key has all but one."
    )
    max_waiting: int = Field(
        64,
        ge=0,
        description="Most requests that wait for such a thread; beyond it, 429. The only request of a key at that "
        "moment may exceed it by a quarter.",
    )
    per_hour: int = Field(
        100_000, ge=0, description="Images that a key may contribute in an hour, 256 at least (429); 0: no limit."
    )

    @field_validator("per_hour")
    @classmethod
    def _takes_a_batch(cls, per_hour: int) -> int:
        if 0 < per_hour < MAX_BATCH:
            raise ValueError(f"a batch of {MAX_BATCH} images would never be accepted; give {MAX_BATCH} or more, or 0")
        return per_hour

    @field_validator("formats")
    @classmethod
    def _are_known(cls, formats: str) -> str:
        if unknown := [name for name in _names(formats) if name not in KNOWN_FORMATS]:
            raise ValueError(f"{', '.join(unknown)}: not among {', '.join(KNOWN_FORMATS)}")
        if not _names(formats):
            raise ValueError(f"none is named; known are {', '.join(KNOWN_FORMATS)}")
        return formats

    def limits(self) -> ImageLimits:
        """As a value of `models`."""
        return ImageLimits(max_pixels=self.max_pixels, max_side=self.max_side, formats=_names(self.formats))


def _names(text: str) -> tuple[str, ...]:
    return tuple(name for part in text.split(",") if (name := part.strip().upper()))


class ErasureSettings(Group):
    """Limits that keep deletions, however many, from leaving clusters without a prompt for long."""

    complete_within: float = Field(
        86_400.0,
        gt=0,
        description="Longest pause, in seconds, before a cluster that erasures keep taking prompts from is trained "
        "again, at most half of `erasure_due_days`; completion never waits for it.",
    )
    retrain_pause: float = Field(
        10.0,
        gt=0,
        description="First such pause, in seconds; each further one in a row is twice as long. A prompt that has "
        "served as long as the last pause ends the row.",
    )
    per_hour: int = Field(10_000, ge=0, description="Erasures that a key may ask for in an hour (429); 0: no limit.")


class HttpSettings(Group):
    """Limits of HTTP: sizes and times of requests, and what is shown without a key."""

    max_connections: int = Field(512, ge=1, description="Connections at once; one more is told 503 and closed.")
    max_header_bytes: int = Field(32_768, ge=1024, description="Largest address and headers of a request; above, 431.")
    max_headers: int = Field(100, ge=10, description="Most headers of a request; above, 431.")
    max_body_bytes: int = Field(
        1_000_000, ge=1024, description="Largest body that holds no image, such as JSON; for images see `intake`."
    )
    header_seconds: float = Field(10.0, gt=0, description="Longest time that a request's headers take; then 408.")
    idle_seconds: float = Field(
        20.0,
        gt=0,
        description="Longest silence in a body (then 408), and of a client that does not read its answer.",
    )
    min_bytes_per_second: int = Field(
        1000, ge=0, description="A body that comes slower, measured after `idle_seconds`, is cut with 408; 0: no limit."
    )
    keep_alive_seconds: int = Field(5, ge=1, description="An idle connection is kept for its client's next request.")
    root_path: str = Field(
        "", pattern=r"^(/[^/?#\s]+)*$", description="Path that a proxy shows the service under, such as `/oubli`."
    )
    docs: bool = Field(True, description="Show `/docs` and `/openapi.json`, which need no key.")
