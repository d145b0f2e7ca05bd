"""What knows nothing of the rest: configs, images, checkpoints, processes, files, errors, signals."""
