"""The losses that a config may name, one file each: to add one, write the file and list it here."""

from model.loss.cross_entropy import CrossEntropyLoss
from model.loss.f1 import F1Loss
from model.loss.focal import FocalLoss
from model.loss.label_smoothing import LabelSmoothingLoss
from model.loss.ldam import LDAMLoss
from model.loss.ordinal import OrdinalLoss

__all__ = ["CrossEntropyLoss", "F1Loss", "FocalLoss", "LDAMLoss", "LabelSmoothingLoss", "OrdinalLoss"]
