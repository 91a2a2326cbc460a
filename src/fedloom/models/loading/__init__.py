"""Loading of samples: costly preprocessing in worker processes ahead of its use, and its results in a cache on disk."""
