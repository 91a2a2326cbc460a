"""Hugging Face sequence classifiers with LoRA."""
