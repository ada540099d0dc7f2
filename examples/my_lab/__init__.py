"""Custom classes for diffusion_lab, each selected by its dotted path or by a file of ``conf/`` next to this package."""
