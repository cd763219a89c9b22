"""Who may ask a server of ours: this machine alone, or whoever has the key."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress

KEY_VARIABLE = "TRIFORCE_API_KEY"
"""Name of the environment variable that holds the key: no list of processes shows it there."""


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches the address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def require_key(host: str, key: str | None) -> None:
    """Raise ValueError where others could reach a server without a key."""
    if not key and not is_loopback(host):
        raise ValueError(f"--host {host}: others can reach it; set {KEY_VARIABLE} to a key, or use 127.0.0.1")


def hash_key(key: str) -> str:
    """Return what a server keeps of a key."""
    return hashlib.sha256(key.encode()).hexdigest()


def is_key(given: str, key_hash: str) -> bool:
    """Return whether a key is the one of the hash, in a time that tells nothing of it."""
    return hmac.compare_digest(hash_key(given), key_hash)
