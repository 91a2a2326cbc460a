"""Deployment on real silos: the server's and the sites' folders, processes and messages, with Flower as transport."""
