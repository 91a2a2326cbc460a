"""Protection of a federation: secure sums, differential privacy, robust combination, a firewall; and simulated attacks."""
