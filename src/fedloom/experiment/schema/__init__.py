"""Descriptions of all settings, from their typed fields: a JSON schema for editors, and the reference page."""
