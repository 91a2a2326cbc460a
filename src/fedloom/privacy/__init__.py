"""What protects a federation: sums instead of single updates, noise, robust combination; and attacks, for studies of it."""
