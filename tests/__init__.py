"""Tests of diffusion_lab. A package, since torch-fidelity installs one of the same name that would hide this folder."""
