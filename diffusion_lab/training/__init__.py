"""Training with Lightning: the module, optimizers, learning-rate schedules, callbacks and the run folder."""
