"""Aggregation as pure functions of tensors: torch only, no I/O, no model, no other package of fedloom."""
