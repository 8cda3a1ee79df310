"""The life of clusters and erasures as a finite model, explored exhaustively: `python -m tests.formal`."""
