"""The service: registry, erasure, serving, HTTP and command line. Layers are checked by import-linter."""

__version__ = "0.1.0"  # of the distribution `oubli-server`, too: pyproject.toml reads it here
