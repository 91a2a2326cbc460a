"""How samples are dealt to clients."""
