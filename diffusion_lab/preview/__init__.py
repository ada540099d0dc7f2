"""Before a run: what it will see, how long it will take, and which learning rate and batch size to begin with."""
