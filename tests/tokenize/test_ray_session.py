"""A start of Ray that times out is tried again, any other error is not."""

from __future__ import annotations

import pytest
import ray

from triforce.tokenize.ray_session import ATTEMPTS, connect


@pytest.fixture
def starts(monkeypatch):
    """Errors that the next starts raise, and the calls that were made."""
    errors: list[Exception] = []
    calls: list[str] = []

    def init(**settings) -> None:
        calls.append(settings["address"])
        if errors:
            raise errors.pop(0)

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: calls.append("shutdown"))
    return errors, calls


def test_a_start_that_times_out_is_tried_again(starts):
    errors, calls = starts
    errors += [Exception("The current node timed out during startup.")] * (ATTEMPTS - 1)
    connect(num_cpus=1)
    assert calls == ["local", "shutdown"] * (ATTEMPTS - 1) + ["local"]


def test_the_last_time_out_and_any_other_error_are_raised(starts):
    errors, calls = starts
    errors += [Exception("The current node timed out during startup.")] * ATTEMPTS
    with pytest.raises(Exception, match="timed out during startup"):
        connect()
    assert calls.count("local") == ATTEMPTS
    errors[:], calls[:] = [ValueError("no such object store")], []
    with pytest.raises(ValueError, match="no such object store"):
        connect()
    assert calls == ["local"]
