"""Dashboards: runs on W&B for training and for what is made of a run later, and the layout of their workspace."""
