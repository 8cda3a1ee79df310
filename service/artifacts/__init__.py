"""Where bytes are kept: one `Store` protocol, implemented for a folder and for S3-compatible servers."""

from service.artifacts.folder import FolderStore
from service.artifacts.opening import open_store
from service.artifacts.store import ObjectMissing, Store, StoreRefuses, StoreUnavailable, born

__all__ = [
    "FolderStore",
    "ObjectMissing",
    "Store",
    "StoreRefuses",
    "StoreUnavailable",
    "born",
    "open_store",
]
