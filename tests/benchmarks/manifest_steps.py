"""Steps over a manifest, a line of JSON a clip, as datatrove and NeMo take them; `bench_manifests.py` runs it.

``python manifest_steps.py TOOL STEP FOLDER`` with datatrove's own Python (``pip install datatrove orjson``) prints a
line of JSON: CPU seconds without imports, peak memory with them, and what came out. ``nemo`` is what NeMo's
`read_manifest` does, without NeMo: the lines are read by `json` into a list, which the steps go through.
"""

from __future__ import annotations

import json
import resource
import shutil
import sys
import time
from pathlib import Path

MIN_SNR_DB = 15.0
CLIPS_PER_SHARD = 256


def is_kept(metadata: dict) -> bool:
    return metadata["drop_reason"] is None


def is_clean(metadata: dict) -> bool:
    return is_kept(metadata) and metadata["snr_db"] >= MIN_SNR_DB


def datatrove(step: str, folder: Path) -> str:
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.filters import LambdaFilter
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.writers import JsonlWriter

    out = folder / "datatrove"
    shutil.rmtree(out, ignore_errors=True)
    holds = {"count": is_kept, "filter": is_clean, "shards": is_kept}[step]
    pipeline = [
        JsonlReader(str(folder / "manifest"), text_key="text", id_key="id"),
        LambdaFilter(lambda document: holds(document.metadata)),
    ]
    if step != "count":
        pipeline.append(JsonlWriter(str(out / "written"), "${rank}.jsonl", compression=None))
    executor = LocalPipelineExecutor(pipeline, tasks=1, workers=1, logging_dir=str(out / "logs"))
    found = executor.run().stats[1].to_dict()["stats"]
    return f"{found['forwarded']} of {found['total']}"


def nemo(step: str, folder: Path) -> str:
    rows = []
    for path in sorted((folder / "manifest").glob("*.jsonl")):
        with path.open(encoding="utf-8") as lines:
            rows += map(json.loads, lines)
    if step == "count":
        return f"{sum(map(is_kept, rows))} kept of {len(rows)}"
    if step == "filter":
        return f"{sum(map(is_clean, rows))} clean"
    kept = [row["id"] for row in rows if is_kept(row)]
    shards = [kept[begin : begin + CLIPS_PER_SHARD] for begin in range(0, len(kept), CLIPS_PER_SHARD)]
    return f"{len(shards)} shards"


TOOLS = {"datatrove": datatrove, "nemo": nemo}


def main() -> None:
    tool, step, folder = sys.argv[1:]
    if tool == "datatrove":
        import datatrove.executor
        import datatrove.pipeline.filters
        import datatrove.pipeline.readers
        import datatrove.pipeline.writers  # noqa: F401
    before, begun_s = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    result = TOOLS[tool](step, Path(folder))
    usage = resource.getrusage(resource.RUSAGE_SELF)
    cpu_s = usage.ru_utime + usage.ru_stime - before.ru_utime - before.ru_stime
    found = {"tool": tool, "step": step, "wall_s": round(time.perf_counter() - begun_s, 2), "cpu_s": round(cpu_s, 2)}
    found |= {"peak_mb": usage.ru_maxrss // 1024, "imports_mb": before.ru_maxrss // 1024, "result": result}
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
