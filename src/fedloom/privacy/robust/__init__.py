"""Robust combination, and simulated attacks to test it."""
