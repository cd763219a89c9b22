"""Hashes of what runs read: the clips of a corpus, the networks of a release."""

from __future__ import annotations

from typing import Any

from triforce.ingest import storage
from triforce.models.release_files import load_card
from triforce.models.voice.bundled import located
from triforce.train.data.packed.pack import Pack, is_pack


def corpus_hash(uri: str) -> str:
    """Hash of which clips of a corpus are kept, or of what a pack was made of. Raises ValueError where there are
    none.
    """
    if is_pack(uri):
        return Pack(uri).hash
    from triforce.ingest.corpus.clip_index import kept_digest
    from triforce.ingest.corpus.store import Corpus

    digest = kept_digest(Corpus(uri))
    if digest is None:
        raise ValueError(f"{uri}: no clip to keep; run `triforce ingest`, or loosen the filters")
    return digest


def require_gpt_card(uri: str) -> dict[str, Any]:
    """What the GPT's ``config.json`` in a release says. Raises FileNotFoundError where there is none."""
    card = load_card(uri, "gpt")
    if card is None:
        raise FileNotFoundError(f"{uri}: no gpt/config.json here; train one first with `triforce train gpt`")
    return card


def refuse_own_release(init_from: str, release: str) -> None:
    """Raise ValueError where a run would begin at the release that it writes: run again, it would begin at its own
    result.
    """
    if storage.absolute(located(init_from)) == storage.absolute(release):
        raise ValueError(f"init_from {init_from}: the release that is written; begin at a copy of it")
