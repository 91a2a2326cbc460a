"""The typed experiment, its rows, building and running it, and the report."""
