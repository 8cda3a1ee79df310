"""Where bytes are kept: one `Store` protocol; a folder, an S3-compatible and a memory implementation."""

from service.artifacts.folder import FolderStore
from service.artifacts.memory import MemoryStore
from service.artifacts.opening import open_store
from service.artifacts.store import ObjectMissing, Store, StoreRefuses, StoreUnavailable, born

__all__ = [
    "FolderStore",
    "MemoryStore",
    "ObjectMissing",
    "Store",
    "StoreRefuses",
    "StoreUnavailable",
    "born",
    "open_store",
]
