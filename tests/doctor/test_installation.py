"""Findings about packages, caches, disks and W&B, from given facts and prepared folders."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from urllib.error import URLError

import pytest

from diffusion_lab.doctor import disks, tracking
from diffusion_lab.doctor.caches import Cache, cache_findings, known_caches, measured
from diffusion_lab.doctor.disks import Disk, disk_findings, read_disks
from diffusion_lab.doctor.findings import Status, pip_install, shown_path
from diffusion_lab.doctor.packages import (
    Packages,
    expanded,
    extra_findings,
    import_of,
    package_findings,
    split_by_extra,
)
from diffusion_lab.doctor.tracking import Tracking, reach, read_tracking, tracking_findings
from tests.doctor.test_machine import named

EXTRAS = {"peers": ("prdc>=0.2,<1",), "dev": ("diffusion-lab[peers]", "pytest>=8.4")}
COMPLETE = Packages("3.11.7", ">=3.11,<3.14", "abc", ("torch>=2.10,<2.14",), EXTRAS, {"torch": "2.13.0+cpu"})
KEY = "0123456789" * 4


class TestPackages:
    def test_complete(self):
        findings = list(package_findings(COMPLETE))
        assert all(finding.status in (Status.OK, Status.FACT) for finding in findings)
        assert "torch 2.13.0+cpu" in named(findings, "packages").text

    @pytest.mark.parametrize(
        ("version", "text"), [(None, "torch"), ("2.9.1", "torch 2.9.1, which is not <2.14,>=2.10")]
    )
    def test_a_missing_or_old_package_is_a_problem(self, version, text):
        installed = {} if version is None else {"torch": version}
        found = named(package_findings(replace(COMPLETE, installed=installed)), "required")
        assert found.status is Status.PROBLEM
        assert found.text == f"missing or in another version: {text}"
        assert found.commands[0].endswith("-c constraints.txt")

    def test_outside_a_checkout_the_requirements_themselves_are_installed(self):
        found = replace(COMPLETE, installed={}, checkout=None)
        assert named(package_findings(found), "required").commands[0].endswith("pip install 'torch>=2.10,<2.14'")
        assert named(extra_findings(found), "dev").commands[0].endswith("pip install 'prdc>=0.2,<1' 'pytest>=8.4'")

    def test_another_python_and_a_failed_import_are_problems(self):
        findings = list(package_findings(replace(COMPLETE, python="3.10.2", import_error="OSError: libfoo")))
        assert named(findings, "Python").status is Status.PROBLEM
        assert named(findings, "imports").text == "training cannot be imported: OSError: libfoo"

    def test_extras(self):
        found = replace(COMPLETE, installed={"prdc": "0.2"})
        findings = list(extra_findings(found))
        assert named(findings, "peers").status is Status.OK
        assert named(findings, "dev").text == "tests and checks: not installed (pytest)"
        assert named(findings, "dev").commands[0].endswith("pip install -e '.[dev]'")

    def test_an_extra_contains_those_that_it_names(self):
        assert expanded("dev", EXTRAS) == ["prdc>=0.2,<1", "pytest>=8.4"]

    def test_the_metadata_of_an_installed_package(self):
        lines = ["torch>=2.10", 'tomli; python_version < "3.11"', 'pytest; (python_version > "3") and extra == "dev"']
        assert split_by_extra(lines) == (lines[:2], {"dev": ['pytest; (python_version > "3")']})

    def test_an_import_that_fails(self):
        def fail(module: str) -> None:
            raise OSError("cannot load\nmore")

        assert import_of("x", fail)[0] == "OSError: cannot load"
        assert import_of("x", lambda module: None)[0] is None

    def test_the_command_works_from_another_folder(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        checkout = tmp_path / "my lab"
        assert pip_install("dev", checkout=checkout).endswith(f"pip install -e '{checkout}[dev]'")
        assert pip_install(checkout=checkout).endswith(f"-e '{checkout}' -c '{checkout / 'constraints.txt'}'")


def file(path: Path, content: bytes = b"x" * 5000) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


class TestCaches:
    def test_a_size_excludes_other_caches(self, tmp_path):
        file(tmp_path / "flowers" / "pixels")
        features = file(tmp_path / "features" / "f")
        whole, part = (measured(Cache("c", tmp_path, "n", names)).size for names in ((), ("features",)))
        assert whole is not None
        assert part is not None
        assert whole - part == features.stat().st_blocks * 512 > 0

    def test_links_are_not_followed(self, tmp_path):
        file(tmp_path / "elsewhere" / "large")
        (tmp_path / "cache").mkdir()
        (tmp_path / "cache" / "link").symlink_to(tmp_path / "elsewhere")
        assert (measured(Cache("c", tmp_path / "cache", "n")).size or 0) < 5000

    def test_a_large_cache_is_not_counted_for_long(self, tmp_path):
        for name in "abc":
            file(tmp_path / name)
        times = iter((0.0, 1.0, 9.0))
        found = measured(Cache("c", tmp_path, "n"), lambda: next(times))
        assert not found.complete
        assert named(cache_findings([found]), "c").text.startswith("more than ")

    def test_the_commands_clear_what_they_say(self, tmp_path):
        own = tmp_path / "it's mine"
        kept, gone = file(own / "weights" / "w"), file(own / "flowers" / "p")
        images = measured(Cache("images", own, "n", ("features", "weights")))
        command = named(cache_findings([images]), "images").commands[0]
        assert os.system(command) == 0
        assert kept.exists()
        assert not gone.parent.exists()
        weights = measured(Cache("weights", own / "weights", "n"))
        assert os.system(named(cache_findings([weights]), "weights").commands[0]) == 0
        assert not kept.parent.exists()

    def test_caches_that_do_not_exist_are_one_line(self, tmp_path):
        found = [measured(Cache(name, tmp_path / name, "n")) for name in ("a", "b")]
        assert [finding.text for finding in cache_findings(found)] == ["a, b"]

    def test_those_of_this_user(self, tmp_path, monkeypatch):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
        folders = {cache.name: cache.folder for cache in known_caches()}
        assert folders["images"] == tmp_path / "diffusion_lab"
        assert folders["torch.hub"] == tmp_path / "torch" / "hub"
        assert folders["W&B cache"] == Path(os.environ["WANDB_CACHE_DIR"])
        assert "compiled code" in folders


def test_the_home_folder_is_not_named(monkeypatch):
    monkeypatch.setenv("HOME", "/home/anna")
    assert shown_path(Path("/home/anna/my cache")) == "~/'my cache'"
    assert shown_path(Path("/home/anna")) == "~"
    assert shown_path(Path("/tmp/x y")) == "'/tmp/x y'"


class TestDisks:
    DISK = Disk("runs", Path("/lab"), 1, 40_000_000_000, 250_000_000_000, True, True)

    def test_one_line_per_file_system(self):
        found = list(disk_findings([self.DISK, replace(self.DISK, use="caches"), replace(self.DISK, device=2)]))
        assert [finding.text for finding in found] == [
            "40 GB free of 250 GB, for runs, caches",
            "40 GB free of 250 GB, for runs",
        ]

    @pytest.mark.parametrize(
        ("free", "needed", "status"),
        [(1_000_000_000, True, "ADVICE"), (1000, True, "PROBLEM"), (1000, False, "ADVICE")],
    )
    def test_little_space(self, free, needed, status):
        (found,) = disk_findings([replace(self.DISK, free=free, needed=needed)])
        assert found.status is Status[status]
        assert found.commands == ("du -h -d 2 /lab | sort -h | tail",)

    def test_a_folder_that_cannot_be_written(self):
        _, found = disk_findings([replace(self.DISK, writable=False)])
        assert found.status is Status.PROBLEM
        assert "output.base_dir=DIR" in found.text

    def test_the_nearest_folder_that_exists(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        runs = read_disks()[0]
        assert (runs.folder, runs.writable) == (tmp_path, True)
        monkeypatch.setattr(disks.os, "access", lambda *_: False)
        assert not read_disks()[0].writable


class TestTracking:
    FOUND = Tracking("0.31.0", server="https://api.wandb.ai")

    def statuses(self, found: Tracking) -> dict[str, Status]:
        return {finding.name: finding.status for finding in tracking_findings(found, "ask")}

    def test_offline_needs_no_login(self):
        found = list(tracking_findings(self.FOUND, "doctor --online"))
        assert Status.PROBLEM not in [finding.status for finding in found]
        assert named(found, "login").commands[0].endswith("-m wandb login --host https://api.wandb.ai")
        assert named(found, "server").commands == ("doctor --online",)

    def test_online_needs_a_login_and_a_server(self):
        found = replace(self.FOUND, mode="online", variable="WANDB_MODE", answer=False, reason="no route")
        assert self.statuses(found) == {"mode": Status.OK, "login": Status.PROBLEM, "server": Status.PROBLEM}

    def test_a_login_that_is_refused(self):
        found = replace(self.FOUND, login="WANDB_API_KEY", mode="online", answer=True, reason="does not know the key")
        assert self.statuses(found)["server"] is Status.PROBLEM
        assert self.statuses(replace(found, reason=""))["server"] is Status.OK

    def test_wandb_is_needed(self):
        assert self.statuses(Tracking(None, "No module named 'wandb'")) == {"wandb": Status.PROBLEM}

    @pytest.mark.parametrize("place", ["WANDB_API_KEY", "netrc"])
    def test_a_key_is_found_and_never_shown(self, place, tmp_path, monkeypatch):
        server = "https://wandb.example.org"
        settings = SimpleNamespace(base_url=server, api_key=None)
        monkeypatch.setattr("wandb.sdk.wandb_setup.singleton", lambda: SimpleNamespace(settings=settings))
        monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
        if place == "netrc":
            file(tmp_path / "netrc", f"machine wandb.example.org login user password {KEY}\n".encode()).chmod(0o600)
        else:
            monkeypatch.setenv(place, KEY)
        found = read_tracking(ask=False)
        assert found.login == (str(tmp_path / "netrc") if place == "netrc" else place)
        assert found.answer is None
        assert KEY not in str(found) + str(list(tracking_findings(found, "")))

    def test_a_malformed_key_is_explained_without_it(self, monkeypatch):
        monkeypatch.setenv("WANDB_API_KEY", "secret")
        found = read_tracking(ask=False)
        assert found.error is not None
        assert "secret" not in str(list(tracking_findings(found, "")))

    @pytest.mark.parametrize(
        ("mode", "ask", "asked"), [("offline", False, 0), ("offline", True, 1), ("online", False, 1)]
    )
    def test_the_server_is_asked_only_if_wanted_or_used(self, mode, ask, asked, monkeypatch):
        calls: list[str] = []
        monkeypatch.setattr(tracking, "reach", lambda server: (bool(calls.append(server)), "no"))
        monkeypatch.setenv("WANDB_MODE", mode)
        assert read_tracking(ask).answer is (False if asked else None)
        assert len(calls) == asked

    def test_a_server_that_does_not_answer(self, monkeypatch):
        def refuse(*_, **__):
            raise URLError(OSError(111, "Connection refused"))

        monkeypatch.setattr(tracking.urllib.request, "urlopen", refuse)
        assert reach("https://wandb.example.org") == (False, "Connection refused")
