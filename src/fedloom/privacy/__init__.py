"""What protects a federation: robust combination of the replies; and attacks, for studies of it."""
