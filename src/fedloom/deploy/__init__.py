"""Real silos: what a server and its sites keep, run and say to each other. Flower carries it; nothing here trains."""
