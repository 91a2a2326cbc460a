"""What keeps one client's update from being seen: secure aggregation and differential privacy."""
