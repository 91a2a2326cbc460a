"""Multimodal LLMs with LoRA and a trainable projector."""
