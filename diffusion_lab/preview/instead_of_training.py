"""What ``train.py`` does instead of training: a preview, or measurements that suggest settings."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from rich.console import Console

from diffusion_lab.config.schema import TrainConfig
from diffusion_lab.console.command_line import command, setting, typed_command
from diffusion_lab.faults import ConfigError, Fault

KEYS = ("preview", "tune.learning_rate", "tune.batch_size")


def run_instead_of_training(config: TrainConfig) -> None:
    """Do what ``preview`` or ``tune`` asks for, and print the result on standard output.

    Raises:
        ConfigError: A ValueError: both are asked for.
    """
    if config.preview:
        if config.tune.learning_rate or config.tune.batch_size:
            key = KEYS[1] if config.tune.learning_rate else KEYS[2]
            raise ConfigError([Fault(key, "cannot be combined with preview=true: use one of them at a time", True)])
        from diffusion_lab.preview.show import preview

        show(preview(config, command_with(config, {})))
        return
    from diffusion_lab.preview.tune import tune

    show(tune(config, partial(command_with, config)))


def show(text: str) -> None:
    """Print text whose last line is a command, which is not wrapped."""
    from diffusion_lab.training.console import print_line, print_prose

    above, _, command_line = text.rpartition("\n")
    console = Console()
    print_prose(console, above)
    print_line(console, command_line)


def command_with(config: TrainConfig, values: Mapping[str, object]) -> str:
    """Return the typed command, so that it trains, with some values set.

    Args:
        config: The settings, in whose files ``preview`` or ``tune`` may be set.
        values: Values by dotted key, which replace typed ones.
    """
    name, arguments = typed_command()
    replaced = {*KEYS, "tune", *values}
    typed = {argument.partition("=")[0].lstrip("+"): argument for argument in arguments}
    kept = [argument for argument in arguments if argument.partition("=")[0].lstrip("+") not in replaced]
    asked = dict(zip(KEYS, (config.preview, config.tune.learning_rate, config.tune.batch_size), strict=True))
    in_a_file = [key for key, value in asked.items() if value and typed.keys().isdisjoint({key, key.partition(".")[0]})]
    changed = {**dict.fromkeys(in_a_file, False), **values}
    return command(name, *kept, *(setting(key, value) for key, value in changed.items()))
