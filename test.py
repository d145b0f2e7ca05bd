"""From a checkpoint to a submission: python test.py --resume <run folder or checkpoint>"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from base.batch import UNKNOWN
from data_loader.loaders import evaluation_loader
from data_loader.records import Record, read_records
from data_loader.sources import read_evaluation_folder
from inference.evaluation import SetScores, class_distribution, evaluate_answers, evaluate_classes
from inference.predictor import Predictor, find_checkpoint
from inference.submission import aligned, read_answers, write_probabilities, write_submission
from logger.log import open_log
from parse_config import CommandLine, build_listed, listed
from utils.device import choose_device
from utils.errors import ConfigError, run_command
from utils.stop_signals import StopSignals
