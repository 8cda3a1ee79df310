"""The service: registry, erasure, serving, HTTP and command line. Layers are checked by import-linter."""
