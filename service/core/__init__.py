"""Use cases: plan, intake, erasure, training, reconcile. Each function opens its transactions and commits them."""
