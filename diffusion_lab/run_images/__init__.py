"""The images of a run, made from its settings."""
