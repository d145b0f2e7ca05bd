"""A run described in JSON: files that extend one another (layers), checked and built by the signatures of what they
name (sections, signatures).

Nothing is imported here: the command line reads the layers before pydantic is there."""
