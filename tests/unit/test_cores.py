"""How many cores the service may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from service import cores

ALL = len(os.sched_getaffinity(0))


@pytest.fixture
def group(tmp_path: Path) -> Path:
    """The process's control group, of version 2."""
    (tmp_path / "own").write_text("0::/outer/inner\n")
    directory = tmp_path / "cgroups/outer/inner"
    directory.mkdir(parents=True)
    return directory


def available(tmp_path: Path) -> int:
    return cores.available(tmp_path / "cgroups", tmp_path / "own")


@pytest.mark.parametrize(("limit", "expected"), [("100000 100000", 1), ("5000 100000", 1), ("max 100000", ALL)])
def test_a_groups_limit_counts(group: Path, tmp_path: Path, limit: str, expected: int) -> None:
    (group / "cpu.max").write_text(f"{limit}\n")
    assert available(tmp_path) == expected


def test_a_part_of_a_core_counts_as_one(group: Path, tmp_path: Path) -> None:
    (group / "cpu.max").write_text("150000 100000\n")
    assert available(tmp_path) == min(ALL, 2)


def test_the_limit_of_a_group_around_it_counts(group: Path, tmp_path: Path) -> None:
    (group / "cpu.max").write_text("max 100000\n")
    (group.parent / "cpu.max").write_text("100000 100000\n")
    assert available(tmp_path) == 1


@pytest.mark.parametrize("own", ["/docker/abc", "/"])
def test_a_container_sees_its_group_as_the_root(tmp_path: Path, own: str) -> None:
    (tmp_path / "own").write_text(f"4:memory:{own}\n3:cpu,cpuacct:{own}\n")
    root = tmp_path / "cgroups/cpu,cpuacct"
    root.mkdir(parents=True)
    (root / "cpu.cfs_quota_us").write_text("100000\n")
    (root / "cpu.cfs_period_us").write_text("100000\n")
    assert available(tmp_path) == 1
    (root / "cpu.cfs_quota_us").write_text("-1\n")
    assert available(tmp_path) == ALL


def test_without_control_groups_the_scheduler_decides(tmp_path: Path) -> None:
    assert available(tmp_path) == ALL
