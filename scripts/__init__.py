"""Programs of the development: the demo, what is written from the code, and checks of machines with a GPU."""
