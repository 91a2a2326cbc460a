"""Where clients' samples come from."""
