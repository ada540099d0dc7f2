"""The fastest settings: candidates, statistics, recommendation, and a real measurement of a tiny network."""

from __future__ import annotations

import shlex
from dataclasses import replace

import pytest
import torch

from diffusion_lab.cli.compose import compose_train_config
from diffusion_lab.doctor import speed, timing, training_steps
from diffusion_lab.doctor.candidates import Candidate, Effect, all_candidates, distinct, effect_of
from diffusion_lab.doctor.findings import Status
from diffusion_lab.doctor.speed import Speed, Timed, measure_speed, speed_findings
from diffusion_lab.doctor.timing import Ratio, fastest, measure_alternately, ratio
from diffusion_lab.doctor.training_steps import Work, training_step
from diffusion_lab.runtime import precision
from tests.config.conftest import composed as composed
from tests.doctor.test_machine import named

CPU = torch.device("cpu")
BY_NAME = {candidate.name: candidate for candidate in all_candidates()}
DEFAULT, AMP, COMPILED = (BY_NAME[name] for name in ("default", "use_amp=true", "compile_model=true"))
STEADY = (1.0, 1.01, 0.99, 1.0, 1.02, 0.98, 1.0)


class TestCandidates:
    def test_the_default_comes_first(self):
        names = ["default", "exact", "fast", "compile_model=true", "use_amp=true", "use_amp=true compile_model=true"]
        assert list(BY_NAME) == names

    @pytest.mark.parametrize("candidate", BY_NAME.values(), ids=BY_NAME)
    def test_train_py_accepts_its_arguments(self, candidate: Candidate, composed):
        settings = compose_train_config(composed("train", *shlex.split(candidate.arguments)))
        assert settings.training.performance == candidate.settings

    @pytest.mark.parametrize("has_bfloat16", [True, False])
    def test_those_of_equal_effect_are_one(self, has_bfloat16, monkeypatch):
        monkeypatch.setattr(precision, "has_bfloat16", lambda device: has_bfloat16)
        groups = [[each.name for each in group] for group in distinct(all_candidates(), CPU).values()]
        compiled = ["fast", "use_amp=true compile_model=true"]
        if has_bfloat16:
            assert groups == [["default", "exact"], compiled, ["compile_model=true"], ["use_amp=true"]]
        else:
            assert groups == [
                ["default", "exact", "use_amp=true"],
                ["fast", "compile_model=true", "use_amp=true compile_model=true"],
            ]

    def test_a_gpu_tells_exact_from_default(self, monkeypatch):
        monkeypatch.setattr(precision, "has_bfloat16", lambda device: True)
        effects = [effect_of(BY_NAME[name].settings, torch.device("cuda")) for name in ("default", "exact", "fast")]
        assert effects == [
            Effect(torch.float32, True, True, False),
            Effect(torch.float32, False, False, False),
            Effect(torch.bfloat16, True, True, True),
        ]


class TestTiming:
    def clock(self, monkeypatch, seconds: dict[str, float]):
        now = [0.0]

        def way(name: str):
            def run() -> None:
                now[0] += seconds[name]
                order.append(name)

            return run

        order: list[str] = []
        return {name: way(name) for name in seconds}, lambda: now[0], order

    def test_rounds_alternate_until_the_time_is_over(self, monkeypatch):
        ways, clock, order = self.clock(monkeypatch, {"a": 0.5, "b": 0.25})
        taken = measure_alternately(ways, 5.0, clock)
        assert taken == {"a": [0.5] * 7, "b": [0.25] * 7}
        assert order[:4] == ["a", "b", "b", "a"]

    @pytest.mark.parametrize(("step", "rounds"), [(1.0, 6), (30.0, 1)])
    def test_a_slow_machine_makes_some_rounds(self, step, rounds, monkeypatch):
        ways, clock, _ = self.clock(monkeypatch, {"a": step, "b": step})
        assert len(measure_alternately(ways, 5.0, clock)["a"]) == rounds

    def test_the_interval_of_a_median(self):
        """Of 6 values the extremes, of 11 the second from each end (tables of the sign test)."""
        ones = [1.0] * 11
        assert ratio(ones[:6], [1 / k for k in range(1, 7)]) == Ratio(3.5, 1.0, 6.0)
        found = ratio(ones, [1 / k for k in range(1, 12)])
        assert (found.low, found.high) == pytest.approx((2, 10))

    def test_few_rounds_prove_nothing(self):
        assert not ratio([2.0] * 5, [1.0] * 5).is_faster

    @pytest.mark.parametrize(
        ("other", "best"),
        [
            ([0.5 * each for each in STEADY], "b"),
            (STEADY[::-1], "a"),
            ([0.5, 2.0, 0.5, 2.0, 0.5, 0.5, 0.5], "a"),  # faster in most rounds, by chance
            ([0.99 * each for each in STEADY], "a"),  # too little to matter
        ],
    )
    def test_the_default_stays_unless_another_is_faster_beyond_the_noise(self, other, best):
        assert fastest({"a": STEADY, "b": other}) == best

    def test_of_two_equally_fast_ones_the_simpler(self):
        half = [each / 2 for each in STEADY]
        assert fastest({"a": STEADY, "b": half, "c": half[::-1]}) == "b"


class TestFindings:
    def found(self, amp: float = 1.0, **changes) -> Speed:
        timed = (
            Timed(DEFAULT, STEADY, ("exact",)),
            Timed(COMPILED, reason="compiling takes minutes", command="doctor --compile"),
            Timed(AMP, tuple(amp * each for each in STEADY), precision="bfloat16"),
        )
        return replace(Speed(timed, "cpu", "model=unet_small", 8, 2), **changes)

    def test_within_the_noise_the_default_is_recommended(self):
        findings = list(speed_findings(self.found(amp=1.0)))
        best = named(findings, "best")
        assert best.status is Status.OK
        assert best.text == "performance=default, which is the default: no other is faster beyond the noise"
        assert best.commands[0].endswith("train.py performance=default")
        assert named(findings, "not measured").commands == ("doctor --compile",)
        assert (
            named(findings, "measured").text
            == "training steps of model=unet_small on cpu, 2 threads; 7 rounds in 14.0 s"
        )

    def test_a_faster_one_comes_with_its_command_and_spread(self):
        findings = list(speed_findings(self.found(amp=0.5)))
        arguments = "performance=default training.performance.use_amp=true"
        assert named(findings, "best").text == f"{arguments}: 2.00 × as fast as the default, computing in bfloat16"
        assert named(findings, "best").commands[0].endswith(f"train.py {arguments}")
        assert (
            "16 images/s (middle half 15.8 to 16.2); 2.00 × the default, 95 % interval"
            in named(findings, "use_amp=true").text
        )

    def test_compiling_must_pay_off(self):
        timed = (Timed(DEFAULT, STEADY), Timed(COMPILED, tuple(0.8 * each for each in STEADY), compiling=120.0))
        assert "pays off in runs of more than 10 minutes" in named(speed_findings(Speed(timed, "cpu")), "best").text

    def test_a_busy_machine_is_measured_again(self):
        best = named(speed_findings(self.found(busy=True)), "best")
        assert best.status is Status.ADVICE
        assert "measure again" in best.text

    def test_settings_that_cannot_train_are_a_problem(self):
        findings = list(speed_findings(Speed((Timed(DEFAULT, reason="RuntimeError: x"),), "cpu")))
        assert named(findings, "best").status is Status.PROBLEM

    def test_json(self):
        content = self.found(amp=0.5).as_json()
        assert content["best"] == "performance=default training.performance.use_amp=true"
        assert [each["images_per_second"] for each in content["measured"]] == [8.0, 16.0]


class TestMeasurement:
    @pytest.fixture(autouse=True)
    def tiny(self, monkeypatch):
        monkeypatch.setattr(training_steps, "SMALL", Work("unet_tiny", 2))
        monkeypatch.setattr(speed, "SECONDS", 0.01)
        monkeypatch.setattr(timing, "MOST_TIME", 1)
        monkeypatch.setattr("diffusion_lab.runtime.devices.resolve_device", lambda name: CPU)

    def measure(self, **options):
        lines: list[str] = []
        return measure_speed(None, True, False, "doctor --compile", lines.append, **options), lines

    @pytest.mark.parametrize("has_bfloat16", [True, False])
    def test_what_differs_is_measured(self, has_bfloat16, monkeypatch):
        monkeypatch.setattr(precision, "has_bfloat16", lambda device: has_bfloat16)
        threads = torch.get_num_threads()
        found, lines = self.measure()
        measured = [each.candidate.name for each in found.measured]
        assert measured == (["default", "use_amp=true"] if has_bfloat16 else [])
        assert len(lines) == has_bfloat16
        assert torch.get_num_threads() == threads
        assert found.best.candidate.name in ("default", "use_amp=true")
        assert named(speed_findings(found), "not measured").commands == ("doctor --compile",)

    def test_one_that_fails_is_left_out_with_the_reason(self, monkeypatch):
        monkeypatch.setattr(precision, "has_bfloat16", lambda device: True)

        def fails_in_bfloat16(work, effect, device):
            if effect.dtype == torch.bfloat16:
                raise RuntimeError("could not create a primitive\nmore")
            return training_step(work, effect, device)

        monkeypatch.setattr(training_steps, "training_step", fails_in_bfloat16)
        found, _ = self.measure()
        assert found.timed[-1].reason == "RuntimeError: could not create a primitive"
        assert found.best.candidate is found.timed[0].candidate

    def test_a_step_trains(self):
        """The weights change, and the flags of torch's backends are restored."""
        before = torch.backends.cuda.matmul.allow_tf32
        step = training_step(Work("unet_tiny", 2), Effect(torch.float32, not before, True, False), CPU)
        (cell,) = [each for each in step.__closure__ or () if isinstance(each.cell_contents, list)]
        weights = [weight.detach().clone() for weight in cell.cell_contents]
        step()
        assert any(not torch.equal(old, new) for old, new in zip(weights, cell.cell_contents, strict=True))
        assert torch.backends.cuda.matmul.allow_tf32 is before
