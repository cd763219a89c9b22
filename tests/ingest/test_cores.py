"""Cores are counted as the machine's control groups allow."""

import os
from pathlib import Path

import pytest

from triforce.ingest import cores
from triforce.ingest.cores import AHEAD, cgroups, map_ahead, num_cores


@pytest.fixture
def machine(tmp_path) -> Path:
    """A tree of groups of version 2: a pod below the root, this process in a part of it that is not shown."""
    (tmp_path / "pod" / "main").mkdir(parents=True)
    (tmp_path / "own").write_text("0::/pod/main/hidden\n")
    return tmp_path


def test_groups_are_found_from_the_inside_out(machine):
    found = list(cgroups("cpu", machine, machine / "own"))
    assert found == [machine / "pod" / "main", machine / "pod", machine]
    (machine / "cpu" / "job").mkdir(parents=True)
    (machine / "own").write_text("5:memory:/job\n4:cpu,cpuacct:/job\n")
    assert list(cgroups("cpu", machine, machine / "own")) == [machine / "cpu" / "job", machine / "cpu"]
    assert list(cgroups("cpu", machine, machine / "none")) == []


def test_a_quota_is_worth_fewer_cores(machine, monkeypatch):
    monkeypatch.setattr(cores, "cgroups", lambda controller: cgroups(controller, machine, machine / "own"))
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)))
    assert num_cores() == 64
    (machine / "cpu.max").write_text("max 100000\n")
    assert num_cores() == 64
    (machine / "pod" / "cpu.max").write_text("350000 100000\n")
    assert num_cores() == 4
    (machine / "pod" / "main" / "cpu.max").write_text("20000 100000\n")
    assert num_cores() == 1


@pytest.mark.parametrize("num_threads", [1, 3])
def test_results_come_in_order_and_errors_in_their_turn(num_threads):
    assert list(map_ahead(lambda x: x * x, range(100), num_threads)) == [x * x for x in range(100)]
    results = map_ahead(lambda x: 1 / (3 - x), range(100), num_threads)
    assert [next(results) for _ in range(3)] == [1 / 3, 1 / 2, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_no_more_is_made_ahead_than_is_said():
    begun = []
    results = map_ahead(begun.append, range(1000), 2)
    next(results)
    assert len(begun) <= 1 + 2 * AHEAD
    results.close()
    assert len(begun) <= 1 + 2 * AHEAD
