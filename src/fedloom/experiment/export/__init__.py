"""A finished run's model for others: adapters as PEFT reads them, uniform ones, or the whole model merged."""
