"""The machine's own C compiler: `step.c` as a library, made once for this CPU and kept for later processes.

A compiler is asked for nothing but C: no headers of Python or of torch, so that it takes a second or two. The library
is kept in ``$XDG_CACHE_HOME/triforce/compiled`` or ``~/.cache/triforce/compiled``, in a folder that nobody else may
write to, under a name that has all in it that it was made of; where there is no such folder, it is made anew for each
process.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
import threading
import time
from functools import cache
from itertools import product
from pathlib import Path

import torch

logger = logging.getLogger(__name__)

SOURCE = Path(__file__).with_name("step.c")
COMPILERS = ("cc", "gcc", "clang")
FLAGS = ("-std=c11", "-O3", "-fPIC", "-shared", "-fvisibility=hidden", "-fno-math-errno", "-fno-trapping-math")
FOR_THIS_CPU = (("-march=native",), ("-mcpu=native",), ())
"""Names that compilers have for it; the first that works is taken."""
LONGEST_S = 120
"""Seconds after which a compiler counts as hung. Assumed."""


class CannotCompileError(RuntimeError):
    """There is no library, and no way to make it here."""


_lock = threading.Lock()


def begin() -> None:
    """Compile in a thread, so that it is over when it is needed; what goes wrong is said there."""
    threading.Thread(target=_try, name="compile-step", daemon=True).start()


def _try() -> None:
    try:
        library()
    except CannotCompileError:
        return


def library() -> ctypes.CDLL:
    """Return the compiled step; waits where it is being made. Raises CannotCompileError, each time the same."""
    with _lock:
        found = _load()
    if isinstance(found, CannotCompileError):
        raise found
    return found


@cache
def _load() -> ctypes.CDLL | CannotCompileError:
    if (compiler := find_compiler()) is None:
        return CannotCompileError(f"no C compiler here ({', '.join(COMPILERS)}, or what $CC names): install gcc")
    try:
        return _load_from(kept_folder(), compiler)
    except (OSError, subprocess.SubprocessError) as error:
        return CannotCompileError(f"{shlex.join(compiler)} made no library of {SOURCE.name}: {error}")


def _load_from(folder: Path | None, compiler: list[str]) -> ctypes.CDLL:
    if folder is not None:
        return ctypes.CDLL(str(kept_library(folder, compiler)))
    with tempfile.TemporaryDirectory(prefix="triforce-") as temporary:
        return ctypes.CDLL(str(kept_library(Path(temporary), compiler)))


def find_compiler() -> list[str] | None:
    """Return the command of a C compiler: what ``$CC`` names, else the first of `COMPILERS` that is there."""
    named = shlex.split(os.environ.get("CC", ""))
    for command in [named] if named else [[name] for name in COMPILERS]:
        if (path := shutil.which(command[0])) is not None:
            return [path, *command[1:]]
    return None


def kept_folder() -> Path | None:
    """Return the folder of libraries, which this user alone can write to; None where there can be none."""
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "triforce" / "compiled"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.stat()
    except (OSError, RuntimeError):
        return None
    theirs = found.st_uid != os.getuid() or found.st_mode & 0o022
    return None if theirs or not os.access(folder, os.W_OK | os.X_OK) else folder


def kept_library(folder: Path, compiler: list[str]) -> Path:
    """Return the library in a folder, compiled where it is not there yet.

    Raises OSError or subprocess.SubprocessError where the compiler does not make it.
    """
    parallel = shares_threads()
    made_of = [path.read_text(encoding="utf-8") for path in sorted(SOURCE.parent.glob("*.[ch]"))]
    made_of += [*compiler, *FLAGS, *sum(FOR_THIS_CPU, ()), str(parallel), _this_cpu()]
    state = os.stat(compiler[0])
    made_of += [str(state.st_size), str(state.st_mtime_ns)]
    path = folder / f"step-{hashlib.sha256(chr(0).join(made_of).encode()).hexdigest()[:20]}.so"
    if not path.is_file():
        started = time.monotonic()
        _compile(path, compiler, parallel)
        logger.info("compiled %s in %.1f s into %s", SOURCE.name, time.monotonic() - started, folder)
    return path


def _compile(path: Path, compiler: list[str], parallel: bool) -> None:
    failed = ""
    with tempfile.TemporaryDirectory(prefix=".tmp-", dir=path.parent) as temporary:
        out = Path(temporary) / path.name
        for threads, native in product(["-fopenmp", "-fopenmp-simd"][not parallel :], FOR_THIS_CPU):
            command = [*compiler, *FLAGS, threads, *native, str(SOURCE), "-o", str(out), "-lm"]
            done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=LONGEST_S)
            if done.returncode == 0:
                out.rename(path)
                return
            failed = done.stderr.strip()[-300:]
    raise OSError(failed)


def shares_threads() -> bool:
    """Return whether a library that is compiled for OpenMP would share torch's threads: where torch has loaded GNU's
    under its own name. A second set of threads would fight with the first.
    """
    torch.get_num_threads()
    try:
        with open("/proc/self/maps", encoding="utf-8", errors="replace") as maps:
            return any(line.rstrip().endswith("/libgomp.so.1") for line in maps)
    except OSError:
        return False


def _this_cpu() -> str:
    """Return what tells this CPU from others that a home may be shared with."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
            told = [line for line in lines if line.startswith(("flags", "Features", "model name", "CPU part"))]
    except OSError:
        told = []
    return platform.machine() + platform.processor() + "".join(sorted(set(told)))
