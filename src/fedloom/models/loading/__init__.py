"""Loading of samples: costly preprocessing in loader processes ahead of its use, and its results in a cache on disk."""
