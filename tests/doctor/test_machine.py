"""Findings about hardware, instructions, accelerators and compilers, from given facts."""

from __future__ import annotations

import math
import os
from dataclasses import replace
from pathlib import Path

import pytest

from diffusion_lab.console.command_line import interpreter
from diffusion_lab.doctor import compilers
from diffusion_lab.doctor.accelerators import Accelerators, Gpu, accelerator_findings
from diffusion_lab.doctor.compilers import Compilers, can_compile, compiler_findings
from diffusion_lab.doctor.findings import Finding, Status
from diffusion_lab.doctor.hardware import Hardware, hardware_findings
from diffusion_lab.doctor.instructions import (
    Instructions,
    instruction_findings,
    isa_of,
    kernels_of,
    output_of,
    read_instructions,
)
from diffusion_lab.runtime.control_groups import Limits, read_limits

QUIET = Hardware("AMD EPYC", "x86_64", 8, 8, None, 8, 7.9, 64e9, 60_000_000_000, None)
AVX512 = Instructions(
    frozenset({"avx2", "avx512_f", "avx512_bf16"}),
    "AVX512",
    "Intel AVX-512 with bfloat16 support",
    {"f32": ("avx512_core",), "bf16": ("avx512_core_bf16",)},
)
AVX2 = Instructions(frozenset({"avx2"}), "AVX2", "Intel AVX2", {"f32": ("avx2",)})
READY = Compilers("g++", True, False, False, "debian", True)
NO_GPU = Accelerators("2.13.0+cpu", "0.28.0", None)


def named(findings, name: str) -> Finding:
    (found,) = [finding for finding in findings if finding.name == name]
    return found


class TestHardware:
    def test_a_quiet_machine_is_fine(self):
        findings = list(hardware_findings(QUIET))
        assert [finding.name for finding in findings] == ["CPU", "cores", "memory"]
        assert named(findings, "cores").text == "8 usable, of 8"
        assert named(findings, "memory").text == "64 GB, 60 GB of it free"
        assert all(finding.status in (Status.OK, Status.FACT) for finding in findings)

    def test_limits_are_named(self):
        found = replace(QUIET, allowed=4, quota=2.0, used=2, free=2.0, memory_limit=8_000_000_000)
        findings = list(hardware_findings(found))
        text = "2 usable, of 8: the affinity of this process allows 4, its control group 2"
        assert named(findings, "cores") == Finding(Status.OK, "cores", text)
        assert named(findings, "memory").text.endswith("the control group allows 8 GB")

    def test_a_quota_that_training_does_not_see_comes_with_the_setting(self):
        found = named(hardware_findings(replace(QUIET, quota=1.5)), "cores")
        assert found.status is Status.ADVICE
        assert "compute.threads=2" in found.text

    def test_other_programs_are_named(self):
        assert "use 3.0 of 8 cores" in named(hardware_findings(replace(QUIET, free=5.0)), "load").text

    @pytest.mark.parametrize("change", [{"available": 1_000_000_000}, {"memory_limit": 1_000_000_000}])
    def test_little_memory(self, change):
        assert named(hardware_findings(replace(QUIET, **change)), "memory").status is Status.ADVICE

    def test_unknown_memory(self):
        assert named(hardware_findings(replace(QUIET, memory=math.inf)), "memory").text == "unknown"


class TestLimits:
    def write(self, root: Path, **files: str) -> None:
        for name, content in files.items():
            path = root / name.replace("__", "/").replace("_DOT_", ".")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)

    def test_the_strictest_group_around_counts(self, tmp_path):
        self.write(tmp_path, own="0::/a/b\n")
        self.write(tmp_path / "fs", cpu_DOT_max="max 100000", a__cpu_DOT_max="150000 100000")
        self.write(tmp_path / "fs", a__b__cpu_DOT_max="400000 100000", a__b__memory_DOT_max="max\n")
        self.write(tmp_path / "fs", a__memory_DOT_max="1000\n")
        assert read_limits(tmp_path / "fs", tmp_path / "own") == Limits(1.5, 1000)

    def test_version_1(self, tmp_path):
        self.write(tmp_path, own="3:memory:/job\n2:cpu,cpuacct:/job\n0::/\n")
        self.write(tmp_path / "fs/cpu/job", cpu_DOT_cfs_quota_us="50000", cpu_DOT_cfs_period_us="100000")
        self.write(tmp_path / "fs/cpu", cpu_DOT_cfs_quota_us="-1", cpu_DOT_cfs_period_us="100000")
        self.write(tmp_path / "fs/memory", memory_DOT_limit_in_bytes=str(2**63 - 4096))
        assert read_limits(tmp_path / "fs", tmp_path / "own") == Limits(0.5, None)

    def test_without_control_groups(self, tmp_path):
        assert read_limits(tmp_path, tmp_path / "missing") == Limits()


class TestInstructions:
    def test_bfloat16_in_hardware(self):
        findings = list(instruction_findings(AVX512))
        assert [finding.status for finding in findings] == [Status.OK, Status.OK]
        assert named(findings, "bfloat16").text == "in hardware (avx512_core_bf16)"

    def test_without_it(self):
        found = named(instruction_findings(AVX2), "bfloat16")
        assert found == Finding(
            Status.FACT, "bfloat16", "not in this CPU: with use_amp=true, training stays in float32"
        )

    def test_a_variable_that_hides_instructions_is_named_with_its_remedy(self):
        found = replace(AVX2, own=AVX512.own, variables=("ONEDNN_MAX_CPU_ISA=AVX2",))
        findings = list(instruction_findings(found))
        for name in ("instructions", "bfloat16"):
            assert named(findings, name).status is Status.ADVICE
            assert named(findings, name).commands == ("unset ONEDNN_MAX_CPU_ISA",)
        assert named(findings, "variable").text == "ONEDNN_MAX_CPU_ISA=AVX2"

    def test_amx_is_used_or_not(self):
        own = AVX512.own | {"amx_tile", "amx_bf16"}
        used = replace(AVX512, own=own, kernels={"bf16": ("avx512_core_amx",)})
        assert named(instruction_findings(used), "AMX").status is Status.OK
        assert named(instruction_findings(replace(AVX512, own=own)), "AMX").status is Status.ADVICE

    def test_a_torch_without_onednn(self):
        assert (
            "no oneDNN" in named(instruction_findings(Instructions(frozenset(), "DEFAULT", None)), "instructions").text
        )

    def test_the_log_of_onednn(self):
        line = "onednn_verbose,v1,primitive,exec,cpu,convolution,{},forward_training,src:{}::blocked:acdb::f0 wei:x,y,1"
        log = "onednn_verbose,v1,info,cpu,isa:Intel AVX2\n" + "\n".join(
            line.format(*each) for each in [("brg_conv_fwd:avx2", "f32"), ("jit:avx2", "f32"), ("gemm:ref", "bf16")]
        )
        assert isa_of(log) == "Intel AVX2"
        assert kernels_of(log) == {"f32": ("avx2",), "bf16": ("ref",)}

    def test_output_of_descriptors_is_captured_and_restored(self, capfd):
        assert output_of(lambda: os.write(1, b"inside")) == "inside"
        os.write(1, b"after")
        assert capfd.readouterr().out == "after"

    def test_this_machine(self):
        found = read_instructions()
        assert found.torch
        assert (found.onednn is None) or "f32" in found.kernels


class TestAccelerators:
    def test_a_gpu(self):
        gpus = (Gpu("H200", 140_000_000_000, (9, 0), True), Gpu("V100", 32_000_000_000, (7, 0), False))
        first, second = accelerator_findings(replace(NO_GPU, cuda="12.8", gpus=gpus))
        assert first.text == "H200, 140 GB, compute capability 9.0; bfloat16 and TF32"
        assert second.name == "GPU cuda:1"
        assert second.text.endswith("no bfloat16: use_amp=true computes in float16; no TF32")

    def test_none(self):
        (found,) = accelerator_findings(NO_GPU)
        assert found.status is Status.FACT

    def test_a_torch_for_cpus_next_to_a_gpu(self):
        (found,) = accelerator_findings(replace(NO_GPU, driver=True))
        assert found.status is Status.ADVICE
        assert found.commands[0].endswith("pip install --force-reinstall torch==2.13.0 torchvision==0.28.0")

    def test_a_hidden_gpu_and_an_old_driver(self):
        (hidden,) = accelerator_findings(replace(NO_GPU, cuda="12.8", driver=True, hidden=True))
        assert hidden.commands == ("unset CUDA_VISIBLE_DEVICES",)
        (old,) = accelerator_findings(replace(NO_GPU, cuda="12.8", driver=True, complaint="The driver is too old"))
        assert "The driver is too old" in old.text

    def test_an_apple_gpu(self):
        assert named(accelerator_findings(replace(NO_GPU, mps=True)), "Apple GPU").status is Status.OK


class TestCompilers:
    def test_all_there(self):
        assert next(compiler_findings(READY)).text == "compiler found: g++"
        assert can_compile(READY)

    @pytest.mark.parametrize(
        ("change", "text", "commands"),
        [
            ({"cpp": None}, "missing: a C++ compiler;", ["apt-get update", "apt-get install --yes g++"]),
            (
                {"headers": False, "system": "fedora"},
                "missing: Python's headers;",
                ["dnf install --assumeyes python3-devel"],
            ),
            (
                {"cpp": None, "headers": False, "system": "suse", "is_root": False},
                "missing: a C++ compiler, Python's headers;",
                ["sudo zypper install --no-confirm gcc-c++ python3-devel"],
            ),
            ({"cpp": None, "system": "darwin"}, "missing: a C++ compiler;", ["xcode-select --install"]),
            ({"cuda": True}, "missing: Triton;", [f"{interpreter()} -m pip install triton"]),
        ],
    )
    def test_what_is_missing_comes_with_its_command(self, change, text, commands):
        found = replace(READY, **change)
        (finding,) = compiler_findings(found)
        assert finding.status is Status.ADVICE
        assert text in finding.text
        assert [*finding.commands] == commands
        assert not can_compile(found)

    def test_an_unknown_system_gets_no_command(self):
        assert next(compiler_findings(replace(READY, cpp=None, system="linux"))).commands == ()

    @pytest.mark.parametrize(
        ("release", "family"), [("ID=ubuntu\nID_LIKE=debian\n", "debian"), ('ID="fedora"\n', "fedora"), ("", "linux")]
    )
    def test_the_family_of_the_system(self, release, family, tmp_path, monkeypatch):
        (tmp_path / "os-release").write_text(release)
        monkeypatch.setattr(compilers, "OS_RELEASE", tmp_path / "os-release")
        monkeypatch.setattr(compilers.sys, "platform", "linux")
        assert compilers._system() == family
