"""Image classification data sets: folders, parquet files, the hub and known layouts."""
