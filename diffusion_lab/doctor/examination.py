"""The examination: all checks in their order, by section."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from diffusion_lab.doctor.accelerators import accelerator_findings, read_accelerators
from diffusion_lab.doctor.caches import cache_findings, read_caches
from diffusion_lab.doctor.compilers import can_compile, compiler_findings, read_compilers
from diffusion_lab.doctor.disks import disk_findings, read_disks
from diffusion_lab.doctor.findings import Finding, examined
from diffusion_lab.doctor.hardware import BUSY, hardware_findings, read_hardware
from diffusion_lab.doctor.instructions import instruction_findings, read_instructions
from diffusion_lab.doctor.packages import Packages, extra_findings, package_findings, read_packages
from diffusion_lab.doctor.speed import Speed, measure_speed, speed_findings
from diffusion_lab.doctor.tracking import read_tracking, tracking_findings

Checks = list[tuple[str, Callable[[], Iterator[Finding]]]]


@dataclass
class Examination:
    """An examination of this machine.

    Args:
        online: Whether to ask the server of W&B.
        measure: Whether to measure the speed of training.
        compile: Whether to measure compiled networks too; None: on a GPU.
        command: Command line of this program, without options.
        report: Called with a line before what takes long.
    """

    online: bool
    measure: bool
    compile: bool | None
    command: str
    report: Callable[[str], None]
    speed: Speed | None = None

    def sections(self) -> Iterator[tuple[str, list[Finding]]]:
        """Yield title and findings of each section as it is examined."""
        for title, checks in self._checks().items():
            yield title, [finding for name, check in checks for finding in examined(name, check)]

    def _checks(self) -> dict[str, Checks]:
        packages: list[Packages] = []

        def of_packages() -> Iterator[Finding]:
            self.report("importing what training needs")
            packages.append(read_packages())
            return package_findings(packages[0])

        return {
            "Versions": [("packages", of_packages)],
            "Hardware": [
                ("hardware", lambda: hardware_findings(read_hardware())),
                ("instructions", lambda: instruction_findings(read_instructions())),
                ("GPU", lambda: accelerator_findings(read_accelerators())),
                ("torch.compile", lambda: compiler_findings(read_compilers())),
            ],
            "Extras": [("extras", lambda: extra_findings(packages[0] if packages else read_packages()))],
            "Caches": [("caches", lambda: cache_findings(read_caches()))],
            "Weights & Biases": [
                ("W&B", lambda: tracking_findings(read_tracking(self.online), f"{self.command} --online --no-measure"))
            ],
            "Disk": [("disk", lambda: disk_findings(read_disks()))],
            **({"Speed of training": [("speed", self._speed_findings)]} if self.measure else {}),
        }

    def _speed_findings(self) -> Iterator[Finding]:
        hardware = read_hardware()
        busy = hardware.used - hardware.free >= BUSY
        compilable = can_compile(read_compilers())
        self.speed = measure_speed(self.compile, compilable, busy, f"{self.command} --compile", self.report)
        return speed_findings(self.speed)

    def speed_as_json(self) -> dict[str, Any] | None:
        """Return the results of the measurement as plain values; None if there are none."""
        return None if self.speed is None else self.speed.as_json()
