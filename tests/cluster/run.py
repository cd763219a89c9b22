"""The whole system on many hosts of one machine, with hosts lost and servers restarted under way.

    pip install 'triforce[cluster-test]' -c infra/constraints.txt; apt-get install postgresql iproute2; as root:
    python tests/cluster/run.py cluster-run

Hosts are network namespaces with addresses of their own; on them run the services of ``infra/docker/compose.yaml`` as
processes: PostgreSQL, Prefect's server and worker, a Ray head, two Ray workers, an S3-compatible store. A pipeline is
started as a user would, by `prefect deployment run`, and while it runs

1. a Ray worker's cable is pulled in the middle of `tokenize`, and plugged in again once Ray has declared the node dead;
2. the same in the middle of training on both workers;
3. PostgreSQL and Prefect's server are killed, and started when the training has gone on without them.

Nothing waits for a number of seconds: each step waits for what it needs to have happened.

It must end well, from feed to GPT: every kept clip in the shards once, every step of the training taken, no secret in
any log or artifact. Then the same pipeline runs on the object store alone.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import importlib.util
import json
import re
import shlex
import shutil
import signal
import sys
import time
from pathlib import Path

from compose_hosts import ROOT, Cluster
from hosts import Host, wait_for
from ray_watch import MetricsWatch, Nodes

TRIFORCE = [sys.executable, "-m", "triforce.flows.cli.main"]
GPT_STEPS = 400
CHECKPOINT_EVERY_S = 1.0
MORE_STEPS = 10
"""Steps after a fault that show that the training goes on."""
LOST = "ray-worker-2"
SLOW_DVAE = {"folded": False, "hidden": 384, "stem": 192, "num_blocks": 10}
"""It takes its time to encode: a fault must find it at work."""
SOURCES = """\
contact: cluster@example.org
allow_private_hosts: true
requests_per_s: 50
sources:
  - {name: prompts, kind: podcast, feeds: ['http://web:8000/podcast/feed.xml'], language: en}
"""
LOGS = ("hosts/**/*.log", "hosts/*/ray/**/*.out", "hosts/*/ray/**/*.err")
LIMIT_S = 900.0
"""How long an event may take before the run counts as failed: many times what two busy cores need."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--store", default="moto_server -H 0.0.0.0 -p 8333", help="an S3-compatible server's command")
    parser.add_argument("--no-faults", action="store_true", help="the object store alone, a third of the time")
    parser.add_argument("--site", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))  # and not without taking the hosts down
    folder = arguments.folder.absolute()
    if arguments.site:
        serve_site(folder)
        return
    require(shlex.split(arguments.store)[0])
    say("speech and a podcast of it")
    make_site(folder / "site")
    cluster = Cluster(folder, shlex.split(arguments.store))
    with cluster.network:
        try:
            say("services")
            cluster.up()
            command = [sys.executable, __file__, str(folder / "site"), "--site"]
            cluster.host("web").start("site", command, cluster.user_environment(), ROOT)
            sources = folder / "sources.yaml"
            sources.write_text(SOURCES)
            if not arguments.no_faults:
                with_faults(cluster, folder / "data", sources)
            on_the_store(cluster, sources)
            check_secrets(cluster)
        finally:
            cluster.down()
    shutil.rmtree(cluster.database)
    say("all well")


def require(store: str) -> None:
    """Refuse to start what would fail half-way for want of something installed."""
    missing = [module for module in ("s3fs", "asyncpg", "piper") if importlib.util.find_spec(module) is None]
    missing += [program for program in (store, "ip") if shutil.which(program) is None]
    if missing:
        sys.exit(f"not installed: {', '.join(missing)}; `{Path(__file__).name} --help` says how")


def say(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)


def make_site(folder: Path) -> None:
    from triforce.flows.examples.demo.sites import lay_out_sites
    from triforce.flows.examples.demo.speech import obtain_speech

    lay_out_sites(obtain_speech(folder.parent / "speech"), folder)


def serve_site(folder: Path) -> None:
    import uvicorn

    from triforce.flows.examples.demo.serve_sites import make_app, render_templates

    render_templates(folder, "http://web:8000")
    uvicorn.run(make_app(folder), host="0.0.0.0", port=8000, log_level="warning")


def pipeline_config(where: str, sources: Path, gpt_steps: int, checkpoint_every_s: float, dvae: dict) -> dict:
    """From feed to GPT with small networks."""
    return {
        "folder": where,
        "sources": str(sources),
        "stages": ["ingest", "dvae", "tokenize", "gpt"],
        "clips": {"transcribe": {"model": "tiny.en", "language": "en", "beam_size": 1}},
        "dvae": {"max_steps": 5, "batch_size": 2, "threads_per_worker": 1, "model": dvae},
        "tokenize": {"num_workers": 2, "clips_per_shard": 4},
        "gpt": {
            **{"num_workers": 2, "threads_per_worker": 1, "max_steps": gpt_steps, "batch_size": 2, "context": 512},
            **{"checkpoint_every_s": checkpoint_every_s, "eval_every": 50},
        },
    }


def start_flow(cluster: Cluster, config: dict) -> str:
    """`prefect deployment run pipeline/full`, typed on the host `user`; the flow run's id."""
    parameters = json.dumps({"config": config})
    words = ["prefect", "--no-prompt", "deployment", "run", "pipeline/full", "--params", parameters]
    printed = typed(cluster, words)
    return next(word for word in printed.split() if len(word) == 36 and word.count("-") == 4)


def typed(cluster: Cluster, words: list[str]) -> str:
    entrypoint = str(ROOT / "infra/docker/entrypoint.sh")
    return cluster.host("user").run([entrypoint, *words], cluster.user_environment(), ROOT)


def api(cluster: Cluster, path: str, body: dict | None = None):
    """Prefect's answer to the host `user`."""
    secret = base64.b64encode(cluster.secret_values()["prefect-auth"].encode()).decode()
    program = (
        "import sys, urllib.request as u; path, body, key = sys.argv[1:]; "
        "head = {'Authorization': 'Basic ' + key, 'Content-Type': 'application/json'}; "
        "asked = u.Request('http://prefect:4200/api/' + path, body.encode() or None, head); "
        "print(u.urlopen(asked, timeout=20).read().decode())"
    )
    text = json.dumps(body) if body is not None else ""
    return json.loads(
        cluster.host("user").run([sys.executable, "-c", program, path, text, secret], cluster.user_environment(), ROOT)
    )


def wait_for_end(cluster: Cluster, flow: str, timeout_s: float) -> None:
    states = []

    def ended() -> bool:
        try:
            states.append(api(cluster, f"flow_runs/{flow}")["state_type"])
        except RuntimeError:  # its server is being restarted
            return False
        return states[-1] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")

    wait_for("the pipeline", ended, timeout_s, every_s=2)
    if states[-1] != "COMPLETED":
        logs = api(cluster, "logs/filter", {"limit": 200, "sort": "TIMESTAMP_DESC"})
        raise SystemExit(f"the pipeline {states[-1]}: " + "\n".join(log["message"] for log in logs[:30]))


def cut_off(cluster: Cluster, nodes: Nodes, lost: Host) -> None:
    """Pull a Ray worker's cable until Ray has declared the node dead, and wait until it has come back as a new one."""
    dead = nodes.count(lost.address, "DEAD")

    def more(state: str, than: int) -> bool:
        with contextlib.suppress(RuntimeError):  # the dashboard may be busy burying it
            return nodes.count(lost.address, state) > than
        return False

    lost.cut()
    seconds = wait_for("the node's death", lambda: more("DEAD", dead), LIMIT_S, every_s=2)
    lost.mend()
    say(f"Ray declared the node dead after {seconds:.0f} s; plugged in again")
    seconds = wait_for("its return", lambda: more("ALIVE", 0), LIMIT_S, every_s=2)
    say(f"{lost.name} is back after {seconds:.0f} s")


def with_faults(cluster: Cluster, data: Path, sources: Path) -> None:
    hosts = ("ray-head", "ray-worker-1", "ray-worker-2")
    with MetricsWatch(lambda words: typed(cluster, words), hosts) as watch:
        flow = start_flow(cluster, pipeline_config(str(data), sources, GPT_STEPS, CHECKPOINT_EVERY_S, SLOW_DVAE))
        say(f"pipeline {flow}: feed, clips, dVAE")
        lose_hosts(cluster, data)
        lose_servers(cluster, data)
        wait_for_end(cluster, flow, 1800)
        restarts = cluster.restarts.count(LOST)
        if restarts < 2:
            raise SystemExit(f"{restarts} restarts of {LOST}: a cut cable was never noticed")
        say(f"pipeline: COMPLETED; {LOST} restarted {restarts} times")
        check_dashboard(watch)
    check_outcome(cluster, str(data), GPT_STEPS)


def lose_hosts(cluster: Cluster, data: Path) -> None:
    """Cut a Ray worker off in the middle of `tokenize`, and again in the middle of training."""
    lost = cluster.host(LOST)
    nodes = Nodes(lambda words: typed(cluster, words), cluster.secret_values()["ray-token"])
    seconds = wait_for("a first shard", lambda: num_shards(data) > 0, LIMIT_S, every_s=0.2)
    say(f"tokenize: {num_shards(data)} of {num_planned(data)} shards after {seconds:.0f} s; the cable is pulled")
    if num_shards(data) >= num_planned(data):
        raise SystemExit("tokenize had ended before it could be disturbed: make SLOW_DVAE slower")
    cut_off(cluster, nodes, lost)
    wait_for("a checkpoint", lambda: checkpoints(data) > 0, LIMIT_S)
    before = last_step(data)
    say(f"train gpt: step {before} of {GPT_STEPS}, {checkpoints(data)} checkpoints; the cable is pulled")
    if before > GPT_STEPS / 2:
        raise SystemExit("the training was half through at its first checkpoint: give it more GPT_STEPS")
    cut_off(cluster, nodes, lost)
    wait_for("the training's going on", lambda: last_step(data) > before + MORE_STEPS, LIMIT_S)


def lose_servers(cluster: Cluster, data: Path) -> None:
    """Kill PostgreSQL and Prefect's server, and start them once the training has gone on without them."""
    for name in ("prefect", "postgres"):
        cluster.kill(name)
    at = last_step(data)
    say(f"train gpt: step {at}; PostgreSQL and Prefect's server are killed")
    wait_for("steps without a server", lambda: last_step(data) >= min(at + MORE_STEPS, GPT_STEPS), LIMIT_S)
    for name in ("postgres", "prefect"):
        cluster.start(name)
        cluster.wait_until_healthy(name)
    say("both are there again")


def num_shards(data: Path) -> int:
    return len(list(data.glob("tokens/*/shard-*.tar")))


def num_planned(data: Path) -> int:
    """Shards that the plan says there will be."""
    from triforce.tokenize.planning.plan_files import num_planned_shards

    return sum(num_planned_shards(str(folder)) for folder in data.glob("tokens/*"))


def check_dashboard(watch: MetricsWatch) -> None:
    """Everything that the Grafana dashboard draws was offered at some time; GPUs aside, which these hosts have not."""
    text = (ROOT / "infra/monitoring/grafana-dashboard.json").read_text()
    drawn = {name for name in re.findall(r"\bray_[a-z_]+", text) if "gpu" not in name}
    if missing := sorted(drawn - watch.seen):
        raise SystemExit(f"the dashboard draws what Ray never offered: {missing}")
    say(f"dashboard: all {len(drawn)} metrics were there")


def checkpoints(data: Path) -> int:
    return len(list(data.glob("runs/gpt-*/checkpoint_*")))


def last_step(data: Path) -> int:
    steps = [json.loads(line).get("step", 0) for file in data.glob("runs/gpt-*/metrics.jsonl") for line in file.open()]
    return max(steps, default=0)


def check_outcome(cluster: Cluster, where: str, steps: int) -> None:
    """Nothing lost, nothing twice."""
    corpus, release = f"{where}/corpus", f"{where}/release"
    program = (
        "import json, sys; from triforce.ingest import storage; from triforce.models.release import load_card; "
        "where = sys.argv[1]; gpt = load_card(where + '/release', 'gpt'); "
        "rows = storage.read_bytes(where + '/runs/' + gpt['run_name'] + '/metrics.jsonl').decode().splitlines(); "
        "print(json.dumps({'steps': gpt['steps'], 'curve': [json.loads(row)['step'] for row in rows], "
        "'tokens': storage.list_folders(where + '/tokens')}))"
    )
    found = json.loads(typed(cluster, [sys.executable, "-c", program, where]).splitlines()[-1])
    if found["steps"] != steps or len(found["tokens"]) != 1:
        raise SystemExit(f"{found['steps']} steps of {steps}; token folders: {found['tokens']}")
    tokens = f"{where}/tokens/{found['tokens'][0]}"
    verified = ["tokens", "verify", tokens, "--corpus", corpus, "--release", release, "--recompute", "20"]
    say("verify: " + typed(cluster, [*TRIFORCE, *verified]).strip().splitlines()[-1])
    say("corpus: " + typed(cluster, [*TRIFORCE, "corpus", "verify", corpus]).strip().splitlines()[-1])
    say(f"train gpt: {found['steps']} steps, {len(set(found['curve']))} points of the curve")


def on_the_store(cluster: Cluster, sources: Path) -> None:
    typed(cluster, [sys.executable, "-c", "import s3fs; s3fs.S3FileSystem().mkdir('triforce')"])
    config = pipeline_config("s3://triforce/data", sources, 20, checkpoint_every_s=60, dvae={})
    say("the same on s3://triforce/data")
    wait_for_end(cluster, start_flow(cluster, config), 1800)
    check_outcome(cluster, "s3://triforce/data", 20)


def check_secrets(cluster: Cluster) -> None:
    """In no log of any host, no log or artifact of Prefect."""
    logs = [path for pattern in LOGS for path in cluster.folder.glob(pattern)]
    texts = {str(path): path.read_text(errors="replace") for path in logs}
    for what in ("logs", "artifacts", "flow_runs"):
        texts[what] = json.dumps(api(cluster, f"{what}/filter", {"limit": 200}))
    found = [
        f"{name} in {place}"
        for name, value in cluster.secret_values().items()
        for place, text in texts.items()
        if value.removeprefix("triforce:") in text
    ]
    if found:
        raise SystemExit(f"secrets in the open: {found}")
    say(f"no secret in {len(texts)} logs")


if __name__ == "__main__":
    main()
