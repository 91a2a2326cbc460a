"""Robust combination, and the attacks to try it on."""
