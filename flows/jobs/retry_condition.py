"""Whether a failed task is worth another attempt."""

from __future__ import annotations

from typing import Any


def is_worth_another_try(task: Any, task_run: Any, state: Any) -> bool:
    """Return False for bad input, which stays bad; a lost machine, store or network may come back."""
    try:
        state.result()
    except (ValueError, FileNotFoundError, ImportError):
        return False
    except Exception:  # whatever ended the task: only what is known to stay bad is not tried again
        return True
    return False
