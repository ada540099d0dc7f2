"""Text for people: messages, warnings and commands as they are printed, without secrets and control characters."""
