"""Use cases: planning, intake, erasure, training. Each function opens its transactions and commits them."""
