"""Architectures of clients with models of their own."""
