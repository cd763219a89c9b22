#!/usr/bin/env bash
# Try the project on a bare machine with a GPU: torch, NumPy and the like are there, a network is not.
#
#   bash tests/gpu/run.sh OUT [check] [train]
#
# check: correctness against the CPU, then the table of speeds, into OUT/gpu.json and OUT/gpu.md.
# train: the voice that comes along, from $PREPARED (what `flows.examples.piper.prepare` makes), for as
#        many minutes as $NARRATOR says (minutes=8.5), into OUT/release.tar.*,
#        files of at most 15 MiB: `cat release.tar.* | tar x`.
# Wheels that the machine lacks (pydantic, unicode-rbnf and what they need) are taken from $WHEELS, a folder. DEVICE=cpu and SHARE=0.01 rehearse it.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
out=$(mkdir -p "$1" && cd "$1" && pwd); shift
steps=${*:-check train}
python=${PYTHON:-python3}
device=${DEVICE:-cuda}
share=${SHARE:-1}
export PYTHONPATH="$root/infra/pkg${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
if [ -n "${WHEELS:-}" ]; then
    site=$(mktemp -d)
    $python -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target "$site" "$WHEELS"/*.whl
    export PYTHONPATH="$site:$PYTHONPATH"
fi
for step in $steps; do
    case $step in
    check)
        $python "$root/tests/gpu/check.py" "$out" --device "$device" --share "$share"
        ;;
    train)
        work=${WORK:-$(mktemp -d)}
        $python -c "import unicode_rbnf, triforce.flows.examples.narrator.stages"  # or minutes are spent to find it missing
        status=0
        $python -m triforce.flows.examples.narrator.run "$PREPARED" "$work" \
            --set device="$device" ${NARRATOR:-} || status=$?
        for file in "$work"/*.log; do echo "== $file"; tail -n 3 "$file" | cut -c 1-600; done
        (cd "$work" && tar cf - *.json *.log) | gzip > "$out/logs.tar.gz"
        $python -m triforce.flows.examples.narrator.shrink "$work/release" "$work/small"
        tar cf - -C "$work/small" . | split -b 15M - "$out/release.tar."
        exit $status
        ;;
    esac
done
