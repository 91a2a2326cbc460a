"""The commands, and all that the terminal shows."""
