"""Encoders of pictures and sounds: their common interface, and towers of transformers with processors of their own."""
