"""Images of ``sample.py`` on W&B."""

from __future__ import annotations

from diffusion_lab.checkpoint import find_checkpoint
from diffusion_lab.config.schema import GenerateConfig
from diffusion_lab.files.run_files import find_run_folder
from diffusion_lab.generation.completion import Generation
from diffusion_lab.tracking.results_run import failing_with_a_warning, results_run, warn
from diffusion_lab.tracking.wandb_run import wandb_library

GENERATED = "generated/samples"

MOST_IMAGES = 64
"""Images that are sent if there is no grid of them."""


@failing_with_a_warning
def log_generation(config: GenerateConfig, made: Generation) -> None:
    """Add generated images to the run of their checkpoint, as ``generation.wandb`` says. A failure gives a warning."""
    wanted = config.generation.wandb
    if wanted == "never" or config.generation.checkpoint is None:
        return
    checkpoint = find_checkpoint(config.generation.checkpoint).resolve()
    scales = ", ".join(f"{scale:g}" for scale in config.generation.sampling.scales)
    seed = [] if config.compute.seed is None else [f"seed {config.compute.seed}"]
    caption = ", ".join([config.sampler.type, f"guidance {scales}", *seed, checkpoint.name])
    files = [made.grid] if made.grid is not None else sorted(made.folder.glob("*.png"))[:MOST_IMAGES]
    if not files:
        if wanted == "always":
            warn("generation.wandb=always: there is no image to send (generation.output has neither images nor grid)")
        return
    with results_run(find_run_folder(checkpoint), wanted, "sample", made.folder) as run:
        if run is not None:
            run.log({GENERATED: [wandb_library().Image(str(file), caption=caption) for file in files]})
