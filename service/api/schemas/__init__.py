"""Pydantic models of everything that goes over the wire, one module a noun."""
