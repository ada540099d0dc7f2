"""Command lines: composing settings from overrides, starting programs, and reporting errors."""
