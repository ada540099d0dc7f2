"""Folder of a run: its files, state, log, identity and the lines printed at its start."""
