"""Serving, measured: a load generator of its own process, the bare model as the limit, ours and its peers."""
