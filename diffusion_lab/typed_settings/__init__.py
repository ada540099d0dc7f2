"""Strict settings sections, sections that select a class, accepted spellings, and reading of trees with faults."""
