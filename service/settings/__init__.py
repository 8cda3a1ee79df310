"""Every setting, in one place, read once at start from the environment and an optional TOML file.

`OUBLI_PARTITION__CAP=300` sets `partition.cap`. `OUBLI_CONFIG` names the TOML file; the environment wins. Nothing here
is read at import time: call `load_settings()` and pass the result on.
"""

from service.settings.answering import MAX_BATCH, ErasureSettings, HttpSettings, IntakeSettings, ServingSettings
from service.settings.learning import ClosedFormSettings, PartitionSettings, TrainingSettings
from service.settings.loading import describe, load_settings
from service.settings.running import RegistrySettings, S3Settings, WorkerSettings
from service.settings.whole import Settings

__all__ = [
    "MAX_BATCH",
    "ClosedFormSettings",
    "ErasureSettings",
    "HttpSettings",
    "IntakeSettings",
    "PartitionSettings",
    "RegistrySettings",
    "S3Settings",
    "ServingSettings",
    "Settings",
    "TrainingSettings",
    "WorkerSettings",
    "describe",
    "load_settings",
]
