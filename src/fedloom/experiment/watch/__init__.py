"""A page on loopback that shows a run, a study or a deployment while it goes on; nothing is written."""
