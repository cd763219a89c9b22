"""Retries of failures that may pass, after the wait that the server asked for, else with growing waits and jitter."""

from __future__ import annotations

import email.utils
import random
import time
from collections.abc import Callable
from typing import NoReturn, TypeVar

import tenacity

from triforce.ingest.config import Settings
from triforce.ingest.corpus.records import RejectReason
from triforce.ingest.errors import Rejected

Result = TypeVar("Result")


class Retry(Exception):
    """Failure of an attempt that may pass. ``wait_s`` is the wait that the server asked for, if it did."""

    def __init__(self, reason: RejectReason, detail: str, wait_s: float | None = None):
        super().__init__(detail)
        self.rejection, self.wait_s = Rejected(reason, detail), wait_s


def retry_after_s(value: str | None) -> float | None:
    """Return the seconds that a Retry-After header asks for, as a number or a date (RFC 9110, 10.2.3); None if none."""
    if not value:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (TypeError, ValueError, OverflowError):
        return None


def with_retries(attempt: Callable[[], Result], settings: Settings) -> Result:
    """Call ``attempt()`` until it returns or raises other than `Retry`, at most ``settings.tries`` times.

    The last `Retry` becomes its `Rejected`.
    """

    def wait_s(state: tenacity.RetryCallState) -> float:
        retry = _retry_of(state)
        backoff_s = min(settings.backoff_s * 2 ** (state.attempt_number - 1), settings.max_backoff_s)
        # Jitter, so that what failed together does not come back together.
        return retry.wait_s if retry.wait_s is not None else random.uniform(0.5, 1.0) * backoff_s

    def give_up(state: tenacity.RetryCallState) -> NoReturn:
        retry = _retry_of(state)
        detail = f"{retry.rejection.detail}, {state.attempt_number} tries"
        raise Rejected(retry.rejection.reason, detail) from retry

    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(Retry),
        stop=tenacity.stop_after_attempt(settings.tries),
        wait=wait_s,
        retry_error_callback=give_up,
    )
    return retrying(attempt)


def _retry_of(state: tenacity.RetryCallState) -> Retry:
    assert state.outcome is not None
    retry = state.outcome.exception()
    assert isinstance(retry, Retry)
    return retry
