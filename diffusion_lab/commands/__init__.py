"""Commands, each a module with a function ``main``: ``diffusion-lab COMMAND`` and the scripts of a checkout."""
