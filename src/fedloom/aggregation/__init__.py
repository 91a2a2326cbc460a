"""Pure tensor functions that combine what clients sent: no I/O, no model, torch and nothing else of ours."""
