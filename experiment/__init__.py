"""A run as a config describes it: what the config may say, whether it makes sense, and the objects made of it."""
