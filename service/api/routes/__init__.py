"""Routes, one module a noun; `service.api.app` puts them together."""
