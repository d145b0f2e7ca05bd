"""Folders in which train.py is run; without data: what a config says is checked before data is looked for."""

from tests.integration.conftest import empty_workplace, made_data, made_run, trained, workplace

__all__ = ["empty_workplace", "made_data", "made_run", "trained", "workplace"]
