"""What is on disk, and how it becomes batches: records, splits, transforms, data sets, loaders."""
