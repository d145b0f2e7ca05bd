"""The contracts of a run's parts, and the vocabulary that they share: labels, batches, preprocessing, metrics."""

from base.base_callback import BaseCallback, Update
from base.base_data_loader import BaseDataLoader
from base.base_model import BaseModel
from base.base_trainer import BaseTrainer

__all__ = ["BaseCallback", "BaseDataLoader", "BaseModel", "BaseTrainer", "Update"]
