"""Pre-training of the shipped foundations."""
