"""Serving: what is served (snapshot), how it is computed (engine), in which batches (batcher), and intake (ingest)."""
