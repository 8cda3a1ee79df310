"""The whole configuration: the settings of each concern, and those of the service itself."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from models.descriptor_kind import DescriptorKind
from models.spec import TrainingSpec
from service.settings.answering import ErasureSettings, HttpSettings, IntakeSettings, ServingSettings
from service.settings.learning import (
    ClosedFormSettings,
    CoreSettings,
    PartitionSettings,
    QualitySettings,
    TrainingSettings,
)
from service.settings.running import RegistrySettings, S3Settings, WorkerSettings
from service.variables import PREFIX


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
        None,
        description="Folder, or `s3://bucket/prefix`, of the erasure ledger, which no backup is to turn back; default: "
        "`ledger` in the data folder, or among the objects of `store_url`.",
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
    core: CoreSettings = CoreSettings()
    closed_form: ClosedFormSettings = ClosedFormSettings()
    quality: QualitySettings = QualitySettings()
    intake: IntakeSettings = IntakeSettings()
    erasure: ErasureSettings = ErasureSettings()
    http: HttpSettings = HttpSettings()
    worker: WorkerSettings = WorkerSettings()
    s3: S3Settings = S3Settings()

    @model_validator(mode="after")
    def _ends_well_before_it_is_due(self) -> Self:
        if timedelta(seconds=self.erasure.complete_within) > timedelta(days=self.erasure_due_days) / 2:
            raise ValueError("erasure.complete_within must be at most half of erasure_due_days")
        return self

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
    def descriptor_kind(self) -> DescriptorKind:
        """The kind of descriptors. Where prompts may not learn from mirror images, descriptors do not see them."""
        return DescriptorKind(self.closed_form.features, mirrored=self.training.flip)

    @property
    def adapting(self) -> TrainingSpec:
        """The training of the adapter."""
        return self.core.spec(self.training)

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
