"""Payloads and scopes, random streams, files and errors; imports nothing else of fedloom."""
