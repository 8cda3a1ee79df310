"""Measurements, run by `make bench`: tables on the screen, figures as JSON in benchmarks/results/ (not committed)."""
