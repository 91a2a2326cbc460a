"""A first experiment on a user's own data, chosen from an inspection of them."""
