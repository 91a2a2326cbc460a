"""Tables of Hugging Face's `datasets` and of plain files, as samples that are read where they are needed."""
