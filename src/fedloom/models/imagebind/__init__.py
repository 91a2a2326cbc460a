"""ImageBind's encoder, its checkpoint format and its preprocessing."""
