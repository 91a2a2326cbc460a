"""Trainable models: frozen foundations with adapters, and the training loops for one client and for cohorts."""
