"""Hypothesis strategies for settings trees: every drawn tree is valid, and every valid value can be drawn."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from tests.typed_settings.own_classes import HERE

Tree = dict[str, Any]
Values = st.SearchStrategy[Any]

FOLDER, FILE = str(Path(__file__).parent), __file__
"""An existing folder and an existing file."""

ANYTHING = f"{HERE}.TakesAnything"

yes_or_no = st.booleans()
positive = st.integers(1, 10**6)
texts = st.text(min_size=1, max_size=8)
paths = texts.filter(lambda text: text.strip() and "\0" not in text)
experiments = texts.filter(lambda text: text[0] not in "/~" and ".." not in text.split("/") and "\0" not in text)
folder_names = st.lists(st.text("ab_-é ", min_size=1, max_size=4), min_size=1, max_size=3).map("/".join)
plain = st.recursive(
    st.none() | yes_or_no | st.integers(-9, 9) | st.floats(allow_nan=False) | texts,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(texts, inner, max_size=2),
    max_leaves=3,
)


def numbers(least: float, most: float, **ends: bool) -> Values:
    """Draw numbers between two bounds, integers included."""
    found = st.floats(least, most, allow_nan=False, **ends)
    return found | found.map(lambda value: int(value) if value == int(value) else value)


def above_zero(most: float = 1e6) -> Values:
    return numbers(0, most, exclude_min=True)


shares = numbers(0, 1)
below_one = numbers(0, 1, exclude_max=True)


def some_of(options: Mapping[str, Values]) -> st.SearchStrategy[Tree]:
    """Draw any of the keys, each with a value."""
    return st.fixed_dictionaries({}, optional=dict(options))


# Strategies take time to be made, so those that are always the same are made once, here.
inside = numbers(0, 1, exclude_min=True, exclude_max=True)
network_options = some_of(
    {
        "type": st.just("unet"),
        "num_res_blocks": st.integers(1, 1000),
        "dropout": below_one,
        "head_channels": positive,
        "patch_size": st.integers(1, 3),
    }
)
transformers = st.tuples(positive, st.integers(1, 16)).flatmap(
    lambda sizes: st.fixed_dictionaries(
        {
            "type": st.just("dit"),
            "hidden_size": st.just(4 * sizes[0] * sizes[1]),
            "num_heads": st.just(sizes[1]),
            "depth": st.integers(1, 1000),
        },
        optional={"mlp_ratio": st.floats(0.1, 8), "dropout": below_one, "patch_size": st.integers(1, 3)},
    )
)
widths = st.integers(1, 32) | st.integers(5, 64).map(lambda groups: 8 * groups)
rising = st.tuples(inside, inside).filter(lambda ends: ends[0] != ends[1]).map(sorted)
processes = rising.flatmap(
    lambda betas: st.fixed_dictionaries(
        {
            "num_timesteps": st.integers(1, 4000),
            "beta_schedule": st.sampled_from(["linear", "cosine", "quadratic", "sigmoid"]),
            "beta_start": st.just(betas[0]),
            "beta_end": st.just(betas[1]),
        },
        optional={"prediction": st.sampled_from(["epsilon", "x0", "v"])},
    )
)
conditionings = st.fixed_dictionaries(
    {"type": st.none(), "num_classes": st.none(), "class_dropout_prob": shares}
) | st.fixed_dictionaries(
    {"type": st.just("class"), "num_classes": positive | st.just("auto"), "class_dropout_prob": shares}
)
sources = (
    st.fixed_dictionaries(
        {"paths": st.fixed_dictionaries({"train": st.just(FOLDER), "val": st.none() | st.just(FOLDER)})},
        optional={"type": st.just("image_folder")},
    )
    | st.fixed_dictionaries(
        {
            "type": st.sampled_from(["digits", "emoji"]),
            "paths": st.fixed_dictionaries({"train": st.none(), "val": st.none()}),
        }
    )
    | st.fixed_dictionaries(
        {
            "type": st.sampled_from(["mnist", "cifar10", "fashion_mnist"]),
            "paths": st.fixed_dictionaries({"train": paths, "val": st.none()}),
        }
    )
    | st.fixed_dictionaries(
        {
            "type": st.just(ANYTHING),
            "paths": st.fixed_dictionaries({"train": st.none() | paths, "val": st.none() | paths}),
        },
        optional={"any_name": plain},
    )
)
data_options = st.fixed_dictionaries(
    {
        "loading": st.fixed_dictionaries(
            {
                "batch_size": positive,
                "num_workers": st.integers(0, 64),
                "pin_memory": yes_or_no,
                "shuffle_train": yes_or_no,
                "drop_last": yes_or_no,
            }
        ),
        "augmentation": st.fixed_dictionaries(
            {
                "horizontal_flip": yes_or_no,
                "rotation_degrees": numbers(0, 180),
                "color_jitter": st.fixed_dictionaries({"enabled": yes_or_no, "strength": shares}),
            }
        ),
    },
    optional={
        "validation_split": some_of({"fraction": inside, "seed": st.integers(0, 99)}),
        "on_corrupt": st.sampled_from(["skip", "error"]),
        "max_pixels": positive,
        "background": st.sampled_from(["white", "#10ff00"]),
        "crop": st.sampled_from(["center", "random"]),
        "cache": st.sampled_from(["disk", "memory", "none"]),
        "cache_dir": st.sampled_from([None, "caches"]),
    },
)
data = st.builds(dict.__or__, sources, data_options)
steps_of_an_optimizer = st.fixed_dictionaries(
    {
        "learning_rate": above_zero(),
        "weight_decay": numbers(0, 1e6),
        "betas": st.lists(below_one, min_size=2, max_size=2),
        "gradient_clip_norm": st.none() | above_zero(),
    },
    optional={"eps": st.none() | above_zero(1), "amsgrad": yes_or_no, "fused": st.none() | yes_or_no},
)
names_of_optimizers = st.fixed_dictionaries({"type": st.sampled_from(["adam", "adamw"])}) | st.fixed_dictionaries(
    {"type": st.just(ANYTHING)}, optional={"any_name": plain}
)
optimizers = st.builds(dict.__or__, names_of_optimizers, steps_of_an_optimizer)
falls = {"T_max": st.just("auto") | positive, "eta_min": shares}
schedulers = st.one_of(
    st.fixed_dictionaries({"type": st.just(kind), **needed}, optional=options)
    for kind, needed, options in (
        (None, {}, {**falls, "step_size": st.none()}),
        ("cosine", falls, {"gamma": st.none()}),
        ("step", {}, {"step_size": positive, "gamma": above_zero()}),
        ("plateau", {}, {"mode": st.sampled_from(["min", "max"]), "factor": inside, "patience": st.integers(0, 99)}),
        ("warmup_cosine", {}, {"warmup_steps": st.integers(0, 10**6), "eta_min": shares}),
        (ANYTHING, {}, {**falls, "any_name": plain}),
    )
)
resumes = st.fixed_dictionaries(
    {
        "enabled": st.just(True),
        "checkpoint": st.sampled_from([FILE, FOLDER]),
        "reset_optimizer": yes_or_no,
        "reset_scheduler": yes_or_no,
    }
) | st.fixed_dictionaries(
    {
        "enabled": st.just(False),
        "checkpoint": st.none(),
        "reset_optimizer": st.just(False),
        "reset_scheduler": st.just(False),
    }
)
averages = st.lists(below_one, min_size=1, max_size=3, unique=True).flatmap(
    lambda decays: st.fixed_dictionaries(
        {"enabled": yes_or_no, "decay": st.just(decays[0])},
        optional={"warmup": yes_or_no, "further_decays": st.just(decays[1:])},
    )
)
trainings_but_for_a_rule = st.fixed_dictionaries(
    {
        "epochs": positive,
        "optimizer": optimizers,
        "scheduler": schedulers,
        "ema": averages,
        "checkpointing": st.fixed_dictionaries(
            {"save_frequency": positive, "save_best_only": yes_or_no, "save_optimizer": yes_or_no}
        ),
        "validation": st.fixed_dictionaries(
            {"enabled": yes_or_no, "frequency": positive, "metric": st.just("loss")},
            optional={"mode": st.sampled_from(["min", "max", None])},
        ),
        "visualization": st.fixed_dictionaries(
            {"enabled": yes_or_no, "interval": positive, "num_samples": positive, "guidance_scale": numbers(0, 1e6)}
        ),
        "performance": st.fixed_dictionaries(
            dict.fromkeys(("use_amp", "use_tf32", "cudnn_benchmark", "compile_model"), yes_or_no)
        ),
        "resume": resumes,
    },
    optional={
        "accumulate_batches": positive,
        "log_interval": positive,
        "watch": st.fixed_dictionaries(
            {}, optional={"skip_non_finite": st.integers(0, 100), "spike_factor": st.none() | numbers(1.5, 1e3)}
        ),
    },
)
scales = numbers(0, 1e6) | st.lists(numbers(0, 1e6), min_size=1, max_size=3)
generations = st.fixed_dictionaries(
    {
        "checkpoint": st.sampled_from([FILE, FOLDER]),
        "sampling": st.fixed_dictionaries(
            {"num_samples": positive, "guidance_scale": scales, "use_ema": st.just(True)},
            optional={
                "ema_decay": st.none() | below_one,
                "labels": st.none() | st.lists(st.integers(0, 9) | texts, min_size=1, max_size=3),
                "batch_size": positive,
            },
        )
        | st.fixed_dictionaries({"num_samples": positive, "guidance_scale": scales, "use_ema": st.just(False)}),
        "output": st.fixed_dictionaries(
            {"save_individual": yes_or_no, "save_grid": yes_or_no, "grid_nrow": positive},
            optional={"save_npz": yes_or_no},
        ),
    }
)
sampler_options = {
    "steps": st.none() | st.integers(1, 5000),
    "spacing": st.sampled_from(["trailing", "leading", "linspace"]),
    "clip": yes_or_no,
}
samplers = (
    st.fixed_dictionaries({}, optional={"type": st.just("ddim"), **sampler_options, "eta": shares})
    | st.fixed_dictionaries(
        {"type": st.just("ddpm")}, optional={**sampler_options, "variance": st.sampled_from(["small", "large"])}
    )
    | st.fixed_dictionaries({"type": st.just(ANYTHING)}, optional={"any_name": plain})
)
intervals = st.lists(numbers(0, 1e3), min_size=2, max_size=2, unique=True).map(sorted)
others = st.fixed_dictionaries(
    {
        "experiment": experiments,
        "compute": st.fixed_dictionaries(
            {
                "device": st.sampled_from(["auto", "cpu", "cuda", "cuda:1", "mps"]),
                "seed": st.none() | st.integers(0, 2**63),
            }
        ),
        "output": st.fixed_dictionaries(
            {
                "base_dir": paths,
                "subdirs": st.fixed_dictionaries(
                    dict.fromkeys(("logs", "checkpoints", "samples", "generated"), folder_names)
                ),
            },
            optional={"overwrite": yes_or_no},
        ),
        "generation": generations,
    },
    optional={
        "sampler": samplers,
        "evaluation": some_of({"enabled": st.just(False), "every": st.just("auto"), "split": st.just("train")}),
        "guidance": some_of({"interval": st.none() | intervals, "rescale": shares}),
        "logger": some_of(
            {
                "backends": st.lists(st.sampled_from(["wandb", "tensorboard"]), max_size=2),
                "mode": st.sampled_from(["offline", "online", "disabled"]),
                "project": texts,
                "entity": st.none() | texts,
                "group": st.none() | texts,
            }
        ),
    },
)


@st.composite
def models(draw: st.DrawFn) -> Tree:
    """Draw consistent stages, attention, widths and image size."""
    options = draw(network_options | transformers)
    transformer = options.get("type") == "dit"
    if draw(st.integers(0, 4)) == 0:
        options |= {"type": ANYTHING, "depth": draw(plain)}
    stages = 1 if transformer else draw(st.integers(1, 4))
    architecture = {
        "image_size": options.get("patch_size", 1) * 2 ** (stages - 1) * draw(st.integers(1, 64)),
        "in_channels": draw(st.sampled_from([1, 3, 4])),
        **options,
    }
    if not transformer:
        architecture |= {
            "model_channels": draw(widths),
            "channel_multipliers": draw(st.lists(st.integers(1, 9), min_size=stages, max_size=stages)),
            "use_attention": draw(st.lists(yes_or_no, min_size=stages, max_size=stages)),
        }
    return {"architecture": architecture, "diffusion": draw(processes), "conditioning": draw(conditionings)}


@st.composite
def trainings(draw: st.DrawFn) -> Tree:
    """Enable validation where another setting requires it."""
    tree: Tree = draw(trainings_but_for_a_rule)
    if tree["checkpointing"]["save_best_only"] or tree["scheduler"]["type"] == "plateau":
        tree["validation"]["enabled"] = True
    return tree


@st.composite
def trees(draw: st.DrawFn) -> Tree:
    """Draw a valid tree of either mode."""
    mode = draw(st.sampled_from(["train", "generate"]))
    tree: Tree = {"mode": mode, **draw(others)}
    sections = {"model": models(), "data": data, "training": trainings()}
    for name, section in sections.items():
        if mode == "train" or draw(yes_or_no):
            tree[name] = draw(section)
    if mode == "train":
        tree["generation"]["checkpoint"] = draw(st.none() | paths)
        if tree.get("sampler", {}).get("steps") is not None:
            tree["sampler"]["steps"] = draw(st.integers(1, tree["model"]["diffusion"]["num_timesteps"]))
    return tree
