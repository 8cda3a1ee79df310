"""Answering: what is served (snapshot), how it is computed (engine), and in which batches (batcher)."""
