"""Settings of evaluate.py: lists are expanded, all faults reported, and settings without effect refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from hydra import compose

from diffusion_lab.cli.compose_evaluation import (
    EVALUATE_SHORT_NAMES,
    EvaluationRequest,
    compose_evaluate_config,
    parse_evaluation,
)
from diffusion_lab.cli.hydra_app import initialized_hydra
from diffusion_lab.cli.key_locations import KeyLocations, composed_key_locations
from diffusion_lab.config.evaluation_section import FEATURES
from diffusion_lab.evaluation import null_rows
from diffusion_lab.evaluation.families import FAMILIES
from diffusion_lab.faults import ConfigError
from diffusion_lab.features import NAMES
from diffusion_lab.metric_names import DEFAULT_METRICS, METRICS, MIN_IMAGES
from scripts.editor_schema import short_names
from tests.config.conftest import CONF

Compose = Callable[..., EvaluationRequest]


@pytest.fixture
def composed_request() -> Iterator[Compose]:
    with initialized_hydra("app", CONF):

        def run(*words: str) -> EvaluationRequest:
            tree = compose("evaluate", list(words))
            return compose_evaluate_config(tree, partial(composed_key_locations, "evaluate", list(words)))

        yield run


@pytest.fixture
def refusal(composed_request: Compose) -> Callable[..., str]:
    def run(*words: str) -> str:
        with pytest.raises(ConfigError) as caught:
            composed_request(*words)
        return str(caught.value)

    return run


class TestPoints:
    def test_one_point_without_lists(self, composed_request: Compose, tmp_path: Path) -> None:
        request = composed_request(f"ckpt={tmp_path}")
        (point,) = request.points
        assert point.values == {}
        assert point.config.generation.checkpoint == tmp_path
        assert point.config.generation.sampling.num_samples == 1000
        assert point.config.generation.sampling.scales == (1.0,)
        assert request.config.evaluation.metrics == DEFAULT_METRICS

    def test_every_combination_the_last_key_varies_fastest(self, composed_request: Compose, tmp_path: Path) -> None:
        for name in ("a", "b"):
            (tmp_path / name).mkdir()
        request = composed_request(
            f"ckpt=[{tmp_path}/a,{tmp_path}/b]",
            "sampler.steps=[5,10]",
            "guidance_scale=[1,2.5]",
            "ema_decay=[0.9,0.99]",
        )
        values = [tuple(point.values.values()) for point in request.points]
        assert len(set(values)) == len(values) == 16
        assert list(request.points[0].values) == [
            *("generation.checkpoint", "generation.sampling.ema_decay", "sampler.steps"),
            "generation.sampling.guidance_scale",
        ]
        assert [value[-2:] for value in values[:4]] == [(5, 1), (5, 2.5), (10, 1), (10, 2.5)]
        last = request.points[-1].config
        assert (last.generation.checkpoint, last.generation.sampling.ema_decay) == (tmp_path / "b", 0.99)
        assert (last.sampler.build().steps, last.generation.sampling.scales) == (10, (2.5,))

    def test_times_of_a_spacing_are_one_value(self, composed_request: Compose, tmp_path: Path) -> None:
        request = composed_request(f"ckpt={tmp_path}", "sampler.spacing=[0.9,0.5]", "sampler.steps=null")
        assert len(request.points) == 1
        several = composed_request(f"ckpt={tmp_path}", "sampler.spacing=[trailing,karras]")
        assert [point.values for point in several.points] == [
            {"sampler.spacing": "trailing"},
            {"sampler.spacing": "karras"},
        ]

    def test_no_images_are_generated_if_existing_ones_are_given(
        self, composed_request: Compose, tmp_path: Path
    ) -> None:
        request = composed_request(f"samples={tmp_path}", f"reference={tmp_path}", "metrics=[kid]")
        assert request.points == ()
        assert request.config.evaluation.metrics == ("kid",)

    def test_images_of_the_run_can_have_moved_with_a_reference(self, composed_request: Compose, tmp_path: Path) -> None:
        request = composed_request(f"ckpt={tmp_path}", f"reference={tmp_path}", f"data.paths.train={tmp_path}")
        assert request.config.data.paths.train == tmp_path

    def test_steps_in_a_list_are_never_lowered(self, tmp_path: Path) -> None:
        for steps, most in ((50, 20), ([5, 50], 50)):
            tree = {"generation": {"checkpoint": str(tmp_path)}, "sampler": {"type": "ddim", "steps": steps}}
            last = parse_evaluation(tree, KeyLocations()).points[-1].config
            assert last.sampler.for_process(20).build().steps == most


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "generation.checkpoint = null: must be a checkpoint file, a run folder or a sweep (ckpt=PATH)"),
        (["samples=."], "evaluation.reference = null: must be a folder of real images to compare with (reference=DIR)"),
        (["ckpt=nowhere"], 'generation.checkpoint = "nowhere": must be an existing checkpoint file or run folder'),
        (["samples=nowhere", "reference=."], 'evaluation.samples = "nowhere": must be an existing folder of images'),
        (["ckpt=.", "metrics=[fid]"], "evaluation.metrics[0] = \"fid\": must be 'fd'"),
        (["ckpt=.", "metrics=[fd,fd]"], "must name each metric once"),
        (["ckpt=.", "metrics=[]"], "must have at least 1 entries"),
        (["ckpt=.", "sampler.steps=[5,0]"], "sampler.steps = 0: must be at least 1"),
        (["ckpt=.", "sampler.steps=[5,5]"], "sampler.steps = [5, 5]: must be a list of different values"),
        (["ckpt=.", "guidance_scale=[1,-1]"], "generation.sampling.guidance_scale[1] = -1: must be at least 0"),
        (["ckpt=.", "num_samples=19"], "evaluation.num_samples = 19: must be at least 20"),
        (["ckpt=.", "split=test"], "evaluation.split = \"test\": must be 'train' or 'val'"),
        (["ckpt=.", "weights=."], "is only used with features=inception, dinov2, clip, got features=auto"),
        (["ckpt=.", f"evaluation.sha256={'0' * 64}"], "is that of evaluation.weights, which is null"),
        (["ckpt=.", "evaluation.held_out=."], "requires evaluation.reference"),
        (["ckpt=.", "evaluation.image_size=16"], "evaluation.image_size = 16: requires evaluation.reference"),
        (["ckpt=.", "reference=.", "split=val"], 'evaluation.split = "val": has no effect, since evaluation.reference'),
        (["ckpt=.", "reference=.", "metrics=[kid]", "data.paths.train=."], 'data.paths.train = ".": has no effect'),
        (["samples=.", "reference=.", "guidance_scale=2"], "generation.sampling.guidance_scale: has no effect"),
        (["samples=.", "reference=.", "sampler.steps=[5,10]"], "sampler: has no effect, since evaluation.samples"),
        (["ckpt=[.,..]", "samples=."], "must be one run, to compare evaluation.samples with its data"),
        (
            ["samples=.", "reference=.", "ckpt=typo"],
            'generation.checkpoint = "typo": is not read, since evaluation.reference names the images to compare',
        ),
        (["samples=.", "reference=.", "ckpt=[.,..]"], 'generation.checkpoint = [".", ".."]: is not read, since'),
        (
            ["ckpt=.", "ema_decay=[0.9]", "use_ema=[true,false]"],
            "needs generation.sampling.use_ema: it selects an EMA",
        ),
        (["samples=.", "reference=.", "seed=[0,1]"], "compute.seed = [0, 1]: must be one number"),
        (["ckpt=.", "feature=pixels"], "unknown key (did you mean 'features'?)"),
    ],
)
def test_faults(words: list[str], message: str, refusal: Callable[..., str]) -> None:
    assert message in refusal(*(word if not word.startswith("feature=") else f"+{word}" for word in words))


def test_all_faults_are_reported_at_once(refusal: Callable[..., str]) -> None:
    text = refusal("ckpt=nowhere", "num_samples=0", "sampler.steps=[0,5]", "device=gpu", "split=test")
    assert text.startswith("5 settings are wrong:")
    assert text.count("[command line]") == 5


def test_short_names_are_those_that_the_code_drops() -> None:
    assert set(short_names(CONF / "evaluate.yaml")) == set(EVALUATE_SHORT_NAMES)


def test_the_minimum_number_of_images_is_that_of_the_metrics() -> None:
    assert MIN_IMAGES == null_rows.MIN_IMAGES


def test_default_metrics_need_no_extra_network() -> None:
    assert set(METRICS) - set(DEFAULT_METRICS) == {"inception_score"}
    assert set(METRICS) == set(FAMILIES)
    assert set(FEATURES) == {"auto", *NAMES}
