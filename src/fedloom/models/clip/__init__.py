"""CLIP with adapters or prompts."""
