#!/usr/bin/env bash
# Creates a virtual environment and installs the project into it, editable, with all that the demo and the tests need.
# Usage: infra/install.sh FOLDER; PYTHON names the interpreter, python3 by default.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${1:?usage: infra/install.sh FOLDER}
python=${PYTHON:-python3}
# Neither is news to the one who typed "make demo".
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore

fail() {
    echo "install: $*" >&2
    exit 1
}

apt_install() {
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || return 1
    echo "install: fetching $* with apt-get"
    export DEBIAN_FRONTEND=noninteractive
    apt-get -qq install -y --no-install-recommends "$@" >/dev/null 2>&1 && return 0
    apt-get -qq update && apt-get -qq install -y --no-install-recommends "$@" >/dev/null
}

command -v "$python" >/dev/null || apt_install python3 python3-venv || true
command -v "$python" >/dev/null ||
    fail "no $python; install Python 3.11 or newer (Debian, Ubuntu: apt-get install python3 python3-venv)"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "$("$python" --version) is too old, 3.11 is the least; name another with: make PYTHON=/path/to/python3.11 ..."

if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    rm -rf "$venv"
    if ! "$python" -c 'import venv, ensurepip' 2>/dev/null; then
        version=$("$python" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')
        apt_install "$version-venv" || apt_install python3-venv ||
            fail "$python cannot make virtual environments; install that (Debian, Ubuntu: apt-get install $version-venv)"
    fi
    "$python" -m venv "$venv" || fail "$python -m venv $venv failed"
fi

echo "install: packages into $venv (2 GB; 3 to 5 minutes the first time)"
"$venv/bin/python" -m pip install -q -c infra/constraints.txt -e '.[demo,test]' ||
    fail "pip failed; what it said is above. Run the same command again when that is mended"
# The voice encoder without its requirements: one of them, typing, breaks Python, and another is an old webrtcvad.
"$venv/bin/python" -m pip install -q --no-deps 'Resemblyzer==0.1.4' ||
    echo "install: no voice encoder; all but 'triforce corpus rescore --voices' works without it" >&2

# The voices of `triforce digits` and its test, which is skipped without them.
command -v espeak-ng >/dev/null && command -v flite >/dev/null || apt_install espeak-ng flite ||
    echo "install: no espeak-ng and flite here; only \`triforce digits\` needs them"
