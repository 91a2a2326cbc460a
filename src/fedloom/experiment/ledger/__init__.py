"""The reproduction ledger: committed summaries of finished studies, the papers' figures, and the pages made from both."""
