"""Checkpoint files: plain data, written whole or not at all, checked when read; nothing in a file is ever executed."""

from utils.checkpoint.checkpoint_file import read_checkpoint, write_checkpoint
from utils.checkpoint.foreign_checkpoint import read_foreign_checkpoint

__all__ = ["read_checkpoint", "read_foreign_checkpoint", "write_checkpoint"]
