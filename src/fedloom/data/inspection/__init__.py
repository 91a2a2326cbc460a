"""A first look at a user's folder or table: its layout, its columns, and what its samples hold."""
