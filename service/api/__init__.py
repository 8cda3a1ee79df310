"""The HTTP API (shared contract: names and shapes are fixed; see openapi.json)."""
