"""Images of a run, read according to its settings."""
