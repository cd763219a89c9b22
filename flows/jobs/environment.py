"""Environment variables that Prefect and Ray must find before they are imported."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

SETTINGS = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    # 20 s by default; on a busy machine with two cores the start took 18.
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    # In memory by default: a flow whose deployment runs one at a time would crash when the server is restarted.
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
    # With a token file that an earlier ray.init() left behind, a cluster without tokens fails: never leave it open.
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
}


def prepare(state: Path | None = None) -> None:
    """Set what embedded use needs; variables that are set already stay. Call it before Prefect or Ray are imported.

    With ``state``, Prefect keeps its database there, not in the user's home.
    """
    if state is not None:
        state.mkdir(parents=True, exist_ok=True)
        os.environ["PREFECT_HOME"] = str(state.absolute())
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    _ask_this_machine_directly()
    _find_a_home()


LOOPBACK = ("localhost", "127.0.0.1", "::1")


def _ask_this_machine_directly() -> None:
    """Keep loopback out of the environment's proxies: Prefect's own client would ask its local server through them."""
    if not any(name.lower().endswith("_proxy") and value for name, value in os.environ.items()):
        return
    given = ",".join(os.environ.get(name, "") for name in ("no_proxy", "NO_PROXY")).split(",")
    hosts = ",".join(dict.fromkeys(filter(None, [*(host.strip() for host in given), *LOOPBACK])))
    os.environ.update(no_proxy=hosts, NO_PROXY=hosts)  # of the two, libraries read either


def _find_a_home() -> None:
    """Give Prefect a temporary folder for its database where there is no home that can be written to."""
    home = os.path.expanduser("~")  # which stays as it is where nobody knows
    folder = os.path.join(home, ".prefect")
    if "PREFECT_HOME" in os.environ or os.access(folder if os.path.isdir(folder) else home, os.W_OK | os.X_OK):
        return
    own = Path(tempfile.gettempdir()) / f"triforce-prefect-{os.getuid()}"
    own.mkdir(mode=0o700, exist_ok=True)
    if own.stat().st_uid != os.getuid():
        raise PermissionError(f"{own} is another user's; set PREFECT_HOME to a folder of your own")
    os.environ["PREFECT_HOME"] = str(own)
