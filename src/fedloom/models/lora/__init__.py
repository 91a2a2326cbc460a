"""What is trained on top of a frozen foundation."""
