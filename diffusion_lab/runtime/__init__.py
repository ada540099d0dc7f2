"""Process and machine: devices, precision, threads, memory, seeds, signals and the environment."""
