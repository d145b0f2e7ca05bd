"""A project of one's own: a copy of what trains and predicts, with a config proposed for a table of images."""

from scripts.new_project.project import PROJECT, main, make_project

__all__ = ["PROJECT", "main", "make_project"]
