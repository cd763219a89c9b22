"""What the tasks that tokenize and train have in common."""

from __future__ import annotations

from typing import Any

from triforce.ingest import storage

FOLDERS = ("corpus", "release", "tokens", "runs")


def everywhere(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields of a config that are set, as a job on another machine must get them: with absolute local folders."""
    return {
        name: storage.absolute(value) if name in FOLDERS else value
        for name, value in fields.items()
        if value is not None
    }


def is_worth_another_try(task: Any, task_run: Any, state: Any) -> bool:
    """False for input that is bad, and stays so; a lost machine, store or network may come back."""
    try:
        state.result()
    except (ValueError, FileNotFoundError, ImportError):
        return False
    except Exception:  # whatever ended the task: only what is known to stay bad is not tried again
        return True
    return False
