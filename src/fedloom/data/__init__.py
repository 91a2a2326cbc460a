"""Clients' data: the sample record, the sources that hand out clients, and the Tabletop world."""
