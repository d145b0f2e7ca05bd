"""A folder without data: what a config says is checked before data is looked for."""

from tests.integration.conftest import empty_workplace

__all__ = ["empty_workplace"]
