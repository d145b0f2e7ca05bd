"""The epoch, the step, and what is kept of them."""

from trainer.checkpoint import Checkpoints
from trainer.learner import Learner
from trainer.trainer import Trainer

__all__ = ["Checkpoints", "Learner", "Trainer"]
