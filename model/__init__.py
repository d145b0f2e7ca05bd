"""Models, losses, metrics, optimizers and schedules that a config may name."""
