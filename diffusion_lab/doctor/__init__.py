"""Examination of a machine: hardware, packages, caches, W&B, disks, and the fastest ``performance=`` settings."""
