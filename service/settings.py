"""Every setting, in one place, read once at start from the environment and an optional TOML file.

`OUBLI_PARTITION__CAP=300` sets `partition.cap`. `OUBLI_CONFIG` names the TOML file; the environment wins. Nothing here
is read at import time: call `load_settings()` and pass the result on.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from models.spec import (
    FORMATS,
    KNOWN_FORMATS,
    ClosedFormSpec,
    ImageLimits,
    PartitionSpec,
    PromptSpec,
    TrainingSpec,
)
from service.errors import Misconfigured
from service.variables import PREFIX, no_such, unknown


class Group(BaseModel):
    """Settings of one concern; an unknown name is an error, not a silent default."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class RegistrySettings(Group):
    """How PostgreSQL is talked to; of no effect on SQLite."""

    pool: int = Field(10, ge=1, le=200, description="PostgreSQL connections that a process keeps.")
    overflow: int = Field(20, ge=0, le=200, description="... and how many more while many requests are answered.")
    connect_seconds: float = Field(5.0, gt=0, description="Longest wait for a connection.")
    statement_seconds: float = Field(60.0, ge=0, description="Longest statement; 0: no limit.")
    lock_seconds: float = Field(15.0, ge=0, description="Longest wait for another transaction; 0: no limit.")
    idle_seconds: float = Field(60.0, ge=0, description="A silent process's transaction is ended; 0: never.")


class PartitionSettings(Group):
    """How samples are divided into clusters."""

    kind: Literal["tree", "anchors", "random", "pinned"] = Field(
        "tree", description="How clusters are made: `tree`, `anchors`, `random` or `pinned`."
    )
    cap: int = Field(500, ge=2, description="`tree`: most samples in a cluster; bounds the cost of any deletion.")
    min: int = Field(100, ge=1, description="`tree`: fewest samples in a cluster; at most half of `cap`.")
    anchors: int = Field(1000, ge=2, description="`anchors`: samples that centroids are made of.")
    clusters: int | None = Field(
        None, ge=1, description="`random`: clusters, 16 unless set. `anchors`: most clusters, instead of a threshold."
    )
    distance_threshold: float = Field(
        1.05, gt=0, le=2, description="`anchors`: groups closer than this are joined (average linkage, unit vectors)."
    )
    centroids: Path | None = Field(None, description="`pinned`: a .npy file of centroids [clusters, features].")

    @model_validator(mode="after")
    def _sizes_can_be_met(self) -> Self:
        if self.cap < 2 * self.min:
            raise ValueError(f"cap ({self.cap}) must be at least twice min ({self.min})")
        return self

    def spec(self) -> PartitionSpec:
        """As a value of `models`."""
        return PartitionSpec(
            kind=self.kind,
            cap=self.cap,
            min=self.min,
            anchors=self.anchors,
            clusters=16 if self.kind == "random" and self.clusters is None else self.clusters,
            distance_threshold=self.distance_threshold,
        )

    def read_centroids(self) -> bytes | None:
        """The file of `pinned`. Raises Misconfigured."""
        if self.kind != "pinned" or self.centroids is None:
            return None
        try:
            return self.centroids.read_bytes()
        except OSError as error:
            raise Misconfigured(f"partition.centroids: {self.centroids} cannot be read ({error.strerror}).") from None


class TrainingSettings(Group):
    """How a cluster's prompt and head are trained, and when."""

    epochs: int = Field(6, ge=1, le=1000, description="Passes over a cluster's samples.")
    batch_size: int = Field(32, ge=1, le=1024, description="Images in a training batch.")
    prompt_lr: float = Field(0.03, gt=0, description="Learning rate of the prompt.")
    head_lr: float = Field(0.05, gt=0, description="Learning rate of the head.")
    prompt_kind: Literal["padding", "fixed_patch", "random_patch", "none"] = Field(
        "padding", description="Where the prompt's pixels are: a frame, a square in the corner, or one that moves."
    )
    prompt_size: int = Field(12, ge=1, description="Width of the frame or the square, pixels of the backbone's input.")
    prompt_init_std: float = Field(0.0, ge=0, description="Noise that a prompt starts from; the reference code's is 1.")
    flip: bool = Field(True, description="Mirror images at random; turn it off where left and right differ.")
    threads: int = Field(1, ge=1, le=256, description="CPU threads of a training; trained bits depend on it.")
    settle_seconds: float = Field(2.0, ge=0, description="Quiet time after an addition before it is trained.")
    settle_max_seconds: float = Field(30.0, ge=0, description="Longest time that additions can put training off.")
    on_new_environment: Literal["keep", "rebuild"] = Field(
        "keep", description="Prompts built with other software or hardware than a worker's: kept, or built again."
    )
    attempts: int = Field(3, ge=1, description="Failed trainings of a cluster before it is shown as failed.")
    retry_seconds: float = Field(10.0, gt=0, description="First pause after a failed training; doubles each time.")

    def spec(self) -> TrainingSpec:
        """As a value of `models`: what the trained bytes depend on."""
        return TrainingSpec(
            epochs=self.epochs,
            batch_size=self.batch_size,
            prompt_lr=self.prompt_lr,
            head_lr=self.head_lr,
            flip=self.flip,
            prompt=PromptSpec(self.prompt_kind, self.prompt_size, self.prompt_init_std),
        )


class ServingSettings(Group):
    """How predictions are answered."""

    withdrawn: Literal["closed_form", "nearest", "abstain"] = Field(
        "closed_form",
        description="Who answers for a cluster without a prompt: the `closed_form` tier, the `nearest` prompt, or 503.",
    )
    max_batch: int = Field(16, ge=1, le=1024, description="Most images in a batch; on a GPU try 64 or more.")
    max_queue: int = Field(
        512,
        ge=1,
        description="Most images that are prepared or wait; beyond it, 429. A quarter more for a key's only request.",
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


class ClosedFormSettings(Group):
    """The closed-form tier: a ridge regression on everybody's descriptors."""

    enabled: bool = Field(True, description="Answer with the closed-form tier, beside the prompts.")
    ridge: float = Field(0.3, gt=0, description="Lambda of its ridge regression, for unit descriptors.")
    temperature: float = Field(0.1, gt=0, description="Of its softmax; smaller is surer.")

    def spec(self) -> ClosedFormSpec:
        """As a value of `models`."""
        return ClosedFormSpec(ridge=self.ridge, temperature=self.temperature)


class IntakeSettings(Group):
    """What is accepted as a sample."""

    max_bytes: int = Field(10_000_000, ge=1, description="Largest accepted image file, bytes.")
    max_request_bytes: int = Field(300_000_000, ge=1, description="Largest accepted request, bytes.")
    max_pixels: int = Field(50_000_000, ge=4, description="Most pixels of an accepted image.")
    max_side: int = Field(512, ge=16, description="Shorter side of what is kept; larger images are reduced.")
    decode_seconds: float = Field(
        5.0, gt=0, description="A processor's time for decoding one image; one that takes more is refused (422)."
    )
    formats: str = Field(",".join(FORMATS), description="Accepted kinds of files; `PLAIN_PPM` can be added.")
    threads: int = Field(16, ge=1, le=256, description="Requests that are taken in at once, a thread each.")
    max_waiting: int = Field(
        64,
        ge=0,
        description="Most requests that wait for such a thread; beyond it, 429; a quarter more for a key's only one.",
    )

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


class HttpSettings(Group):
    """How much a client may say at once, how long it may take, and what strangers are shown."""

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


class S3Settings(Group):
    """How an S3-compatible server is reached, where `store_url` names a bucket."""

    endpoint_url: str | None = Field(None, description="Of an S3-compatible server; default: Amazon's own.")
    region: str | None = Field(None, description="Default: the environment's (`AWS_DEFAULT_REGION`), or `us-east-1`.")
    access_key_id: str | None = Field(None, description="Default: what the environment, profile or role gives.")
    secret_access_key: SecretStr | None = Field(None, description="Given with `access_key_id`, or not at all.")
    addressing: Literal["path", "virtual"] | None = Field(
        None, description="Bucket in the `path` or as `virtual` host; default: `path` with an `endpoint_url`."
    )
    connect_seconds: float = Field(2.0, gt=0, description="Patience with a connection to be made.")
    read_seconds: float = Field(5.0, gt=0, description="Patience with an answer.")
    attempts: int = Field(2, ge=1, le=10, description="Of a request that fails for no fault of its own.")

    @property
    def addressing_style(self) -> str:
        """As botocore calls it."""
        return self.addressing or ("path" if self.endpoint_url else "virtual")

    @property
    def longest_seconds(self) -> float:
        """How long a request can take: every attempt, and the pauses between them (botocore's, at their longest)."""
        pauses = sum(min(2.0**attempt, 20.0) + 5.0 for attempt in range(self.attempts - 1))
        return self.attempts * (self.connect_seconds + self.read_seconds) + pauses

    @model_validator(mode="after")
    def _can_be_used(self) -> Self:
        if (self.access_key_id is None) != (self.secret_access_key is None):
            raise ValueError("access_key_id and secret_access_key are given together, or neither is")
        if self.longest_seconds > 60:
            raise ValueError(
                f"a request could take {self.longest_seconds:.0f} s; choose attempts, connect_seconds and read_seconds "
                "so that it is 60 s at most"
            )
        if self.endpoint_url is not None:
            _check_endpoint(self.endpoint_url)
        return self


def _check_endpoint(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError("endpoint_url must look like https://host:port")
    if "@" in parts.netloc:
        raise ValueError("endpoint_url must hold no keys: use access_key_id and secret_access_key")


class WorkerSettings(Group):
    """How workers hold on to what they train, and how processes are heard from."""

    lease_seconds: float = Field(20.0, ge=1, description="A training whose worker is silent this long is given away.")
    heartbeat_seconds: float = Field(3.0, gt=0, description="Between two heartbeats of a worker or an API process.")
    reconcile_seconds: float = Field(5.0, gt=0, description="Between two looks for work that was not rung for.")
    deaf_seconds: float = Field(
        60.0, ge=1, description="A worker that hears no bell for this long while work waits for it starts anew."
    )
    nice: int = Field(10, ge=0, le=19, description="Niceness of embedded workers: the API goes first.")
    processes: int = Field(1, ge=1, le=64, description="Embedded workers of `oubli serve`; each trains a cluster.")

    @model_validator(mode="after")
    def _lease_outlives_heartbeat(self) -> Self:
        if self.lease_seconds < 3 * self.heartbeat_seconds:
            raise ValueError("lease_seconds must be at least three times heartbeat_seconds")
        return self

    @property
    def lease(self) -> timedelta:
        """How long a lease lasts without renewal."""
        return timedelta(seconds=self.lease_seconds)

    @property
    def fresh(self) -> timedelta:
        """A process heard from within this time counts as alive."""
        return timedelta(seconds=max(4 * self.heartbeat_seconds, 10.0))


class Settings(BaseSettings):
    """The whole configuration."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True, hide_input_in_errors=True
    )

    data_dir: Path = Field(Path("oubli-data"), description="Folder of registry, images, artifacts and admin key.")
    cache_dir: Path | None = Field(
        None, description="Folder of public results that are slow to compute; default: in the user's cache folder."
    )
    database_url: SecretStr | None = Field(None, description="SQLAlchemy URL; default: SQLite in the data folder.")
    ledger_url: str | None = Field(
        None, description="Folder of the erasure ledger, kept apart from backups; default: among the objects."
    )
    broker_url: SecretStr | None = Field(None, description="Celery broker; default: a folder in the data folder.")
    store_url: str | None = Field(
        None, description="Images and artifacts: `s3://bucket/prefix`, or a path; default: a folder in the data folder."
    )
    backbone: str = Field("efficientnet-lite0", description="Frozen public backbone, by name.")
    input_size: int | None = Field(None, description="Pixels of the backbone's input; default: the backbone's own.")
    device: str = Field("cpu", pattern=r"^(cpu|cuda(:\d+)?)$", description="`cpu`, `cuda` or `cuda:N`.")
    auth: bool = Field(True, description="Ask for API keys; `false` only where the API listens on a loopback address.")
    erasure_due_days: int = Field(30, ge=1, description="`due_at` of an erasure; GDPR Art. 12(3): one month.")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="Least severe logged event.")
    log_format: Literal["text", "json"] = Field("text", description="Log lines: `text`, or `json`, one object each.")
    tracing: bool = Field(
        False,
        description="Send OpenTelemetry traces (extra `otel`); where to, say the `OTEL_EXPORTER_OTLP_*` variables.",
    )
    registry: RegistrySettings = RegistrySettings()
    partition: PartitionSettings = PartitionSettings()
    training: TrainingSettings = TrainingSettings()
    serving: ServingSettings = ServingSettings()
    closed_form: ClosedFormSettings = ClosedFormSettings()
    intake: IntakeSettings = IntakeSettings()
    http: HttpSettings = HttpSettings()
    worker: WorkerSettings = WorkerSettings()
    s3: S3Settings = S3Settings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, then environment, then the TOML file that `OUBLI_CONFIG` names."""
        path = os.environ.get("OUBLI_CONFIG")
        toml = (TomlConfigSettingsSource(settings_cls, path),) if path else ()
        return (init_settings, env_settings, *toml)

    @property
    def database(self) -> str | Path:
        """SQLAlchemy URL of the registry; without one, the file of its SQLite database."""
        if self.database_url is not None:
            return self.database_url.get_secret_value()
        return self.data_dir.absolute() / "registry.db"

    @property
    def cache(self) -> Path:
        """Folder of what is public and slow to compute: `cache_dir`, or where this user's caches are (XDG)."""
        if self.cache_dir is not None:
            return self.cache_dir
        home = os.environ.get("XDG_CACHE_HOME")
        return (Path(home) if home else Path("~/.cache").expanduser()) / "oubli"

    @property
    def broker(self) -> str:
        """Celery broker URL; a folder when none is set."""
        return self.broker_url.get_secret_value() if self.broker_url is not None else "filesystem://localhost//"


def describe() -> list[tuple[str, str, str]]:
    """Every setting: its environment variable, its default, what it does. README's table is made of this."""
    rows = []
    for name, field in Settings.model_fields.items():
        group = field.annotation
        if isinstance(group, type) and issubclass(group, Group):
            for inner, setting in group.model_fields.items():
                variable = f"OUBLI_{name}__{inner}".upper()
                default = "" if setting.default is None else str(setting.default)
                rows.append((variable, default, setting.description or ""))
        else:
            default = "" if field.default is None else str(field.default)
            rows.append((f"OUBLI_{name}".upper(), default, field.description or ""))
    return rows


def load_settings(**overrides: object) -> Settings:
    """Settings from the environment, with overrides from the command line. Raises Misconfigured, in words."""
    path = os.environ.get("OUBLI_CONFIG")
    if path and not Path(path).is_file():
        raise Misconfigured(f"OUBLI_CONFIG names {path}, which is not a file.")
    if lines := list(unknown(os.environ, _variables())):
        raise _unusable(lines)
    given = {name: value for name, value in overrides.items() if value is not None}
    try:
        return Settings(**given)  # type: ignore[arg-type]
    except ValidationError as error:
        raise _unusable([_line(item) for item in error.errors()]) from None
    except SettingsError as error:  # a group as JSON; without its value, which may be a secret
        raise _unusable([f"{error}: it must be JSON, or set each of the group by its own variable."]) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Misconfigured(f"{path} is not a TOML file: {error}.") from None
    except OSError as error:
        raise Misconfigured(f"{path} cannot be read ({error.strerror}).") from None


def _variables() -> list[str]:
    """Every variable that sets something: one setting, or a group of them as JSON."""
    groups = [f"{PREFIX}{name}".upper() for name in Settings.model_fields]
    return [*groups, *(variable for variable, _, _ in describe())]


def _unusable(lines: Sequence[str]) -> Misconfigured:
    return Misconfigured("These settings cannot be used.\n  " + "\n  ".join(lines))


def _line(item: ErrorDetails) -> str:
    """What pydantic says of one setting, without its value."""
    name = ".".join(map(str, item["loc"]))
    if item["type"] != "extra_forbidden":
        return f"{name}: {item['msg']}"
    dotted = [variable.removeprefix(PREFIX).lower().replace("__", ".") for variable in _variables()]
    return f"{name}: {no_such(name, dotted)}"
