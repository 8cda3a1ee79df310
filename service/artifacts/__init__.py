"""Where bytes are kept: one `Store` protocol; a folder and a memory implementation."""

from service.artifacts.folder import FolderStore
from service.artifacts.memory import MemoryStore
from service.artifacts.store import ObjectMissing, Store, born

__all__ = ["FolderStore", "MemoryStore", "ObjectMissing", "Store", "born"]
