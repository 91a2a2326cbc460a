"""The error that ends a command with one sentence."""


class AssetError(Exception):
    """Something cannot be downloaded, read or written; the text says what, and what would help."""
