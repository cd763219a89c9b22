"""The compiled step: its products, the instructions that it may be of, how it is made and kept, and doing without."""

from __future__ import annotations

import ctypes
import logging
import shlex
import shutil
import threading
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from triforce.models.blocks.kv_cache import KVCache, SlotCache
from triforce.models.decoding import compiler
from triforce.models.decoding.compiled import LARGEST, CompiledMatrix
from triforce.models.decoding.network import PackedNetwork
from triforce.models.gpt import GPT, GPTConfig
from triforce.models.gpt_sampling import SamplingConfig
from triforce.models.release import Release
from triforce.models.vocabulary import Modality, Vocabulary

needs_compiler = pytest.mark.skipif(compiler.find_compiler() is None, reason="no C compiler: apt-get install gcc")
VOCABULARY = Vocabulary(modalities=(Modality(name="text", num_codes=20), Modality(name="speech", num_codes=30)))
ERROR = 0.01
"""Allowed of a hidden state, as a share of its length: keys and values are kept in bfloat16. Measured: 0.0025."""
INSTRUCTIONS = {"avx512_vnni": "-march=icelake-server", "avx512bw": "-march=skylake-avx512", "avx2": "-march=haswell"}
"""Flags of /proc/cpuinfo and processors whose instructions the source knows; others get plain C."""


def make_gpt(**settings) -> GPT:
    """A GPT whose weights are whole steps of int8, so that packing them changes nothing."""
    torch.manual_seed(0)
    shape = {"vocabulary": VOCABULARY, "num_layers": 3, "width": 72, "num_heads": 3, "max_positions": 128}
    model = GPT(GPTConfig(**(shape | settings))).eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            steps = torch.randint(-LARGEST, LARGEST + 1, parameter.shape)
            steps[:, 0] = LARGEST
            parameter.copy_(steps * 0.2 / LARGEST)
        elif "q_norm" in name or "k_norm" in name:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    return model


def allowed(found: torch.Tensor, wanted: torch.Tensor) -> bool:
    return bool(((found - wanted).norm(dim=-1) <= ERROR * wanted.norm(dim=-1)).all())


@needs_compiler
@pytest.mark.parametrize("settings", [{}, {"paces": {"text": 1.9, "speech": 0.7}}, {"pointer": True}])
@pytest.mark.parametrize("pieces", [[1] * 12, [5, 7], [5, 1, 1, 5]])
def test_with_a_growing_cache_it_is_the_gpt(pieces, settings):
    model = make_gpt(**settings)
    network = PackedNetwork(model, "int8", "yes")
    ids = torch.randint(0, VOCABULARY.size, (2, 12), generator=torch.Generator().manual_seed(1))
    ids[0, 4] = VOCABULARY.begin("speech")
    cache = KVCache.empty(model.config, 2, 12, torch.empty(0, dtype=network.cache_dtype))
    found = torch.cat([network(part, cache=cache) for part in ids.split(pieces, dim=1)], 1)
    assert allowed(found, model(ids))
    assert not allowed(found.roll(1, dims=1), model(ids))
    scores = network.head(torch.arange(VOCABULARY.size))(found[:, -1])
    assert allowed(scores, model.logits(model(ids))[:, -1])
    with pytest.raises(ValueError, match="larger capacity"):
        network(ids[:, :1], cache=cache)


@needs_compiler
def test_rows_of_one_step_do_not_see_each_other_and_threads_may_take_steps_at_once():
    model = make_gpt()
    network = PackedNetwork(model, "int8", "yes")
    ids = torch.randint(0, VOCABULARY.size, (8, 60), generator=torch.Generator().manual_seed(2))
    found: dict[int, list[torch.Tensor]] = {}

    def read(first: int, rows: int, capacity: int) -> None:
        cache = KVCache.empty(model.config, rows, capacity, torch.empty(0, dtype=network.cache_dtype))
        part = ids[first : first + rows]
        found[first] = [network(part[:, at : at + 1], cache=cache)[:, 0] for at in range(60)]

    threads = [threading.Thread(target=read, args=work) for work in ((0, 1, 60), (1, 2, 64), (3, 5, 100))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    together = torch.cat([torch.stack(found[first], 1) for first in (0, 1, 3)])
    read(0, 8, 60)
    assert torch.equal(together, torch.stack(found[0], 1))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1 if before > 1 else 2)
        read(0, 8, 60)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(together, torch.stack(found[0], 1))


@needs_compiler
def test_ids_and_slots_that_there_are_not_are_refused():
    network = PackedNetwork(make_gpt(), "int8", "yes")
    cache = SlotCache.empty(network.config, 1, 8, torch.device("cpu"), network.cache_dtype)
    good = torch.zeros(1, 1, dtype=torch.int64)
    for bad, slot in ((VOCABULARY.size, 0), (-1, 0), (0, 8), (0, -1)):
        cache.slots = torch.full((1, 1), slot)
        with pytest.raises(IndexError, match="has fewer"):
            network(torch.full((1, 1), bad), positions=good, cache=cache)


@needs_compiler
@pytest.mark.parametrize("inputs", [16, 24, 33, 1024])
@pytest.mark.parametrize("outputs", [1, 40, 64])
def test_products_are_those_of_the_rounded_matrix(inputs, outputs):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(outputs, inputs, generator=generator)
    scale = weight.abs().amax(1, keepdim=True) / LARGEST
    matrix = CompiledMatrix(compiler.library(), weight)
    for rows in range(1, 20):
        x = torch.randn(rows, inputs, generator=generator)
        wanted = F.linear(x, (weight / scale).round() * scale)
        assert (matrix(x) - wanted).norm() < 2e-4 * wanted.norm()
    half = x.bfloat16()
    torch.testing.assert_close(matrix(half), matrix(half.float()))


@needs_compiler
def test_sums_do_not_overflow_and_what_is_no_number_stays_none():
    matrix = CompiledMatrix(compiler.library(), torch.ones(16, 8192))
    torch.testing.assert_close(matrix(torch.full((1, 8192), 3.0)), torch.full((1, 16), 3.0 * 8192))
    assert matrix(torch.zeros(2, 8192)).abs().max() == 0
    for odd in (torch.nan, torch.inf, -torch.inf):
        x = torch.ones(2, 8192)
        x[1, 5] = odd
        found = matrix(x)
        assert found[0].tolist() == [8192] * 16
        assert found[1].isnan().all()


@needs_compiler
@pytest.mark.parametrize("flags", [*INSTRUCTIONS, "plain"])
def test_all_instructions_give_the_same(flags, tmp_path, monkeypatch):
    cpu = Path("/proc/cpuinfo")
    if flags != "plain" and (not cpu.exists() or flags not in cpu.read_text()):
        pytest.skip(f"this CPU has no {flags}")
    chosen = (INSTRUCTIONS[flags],) if flags in INSTRUCTIONS else ()
    monkeypatch.setattr(compiler, "FOR_THIS_CPU", (chosen,))
    library = ctypes.CDLL(str(compiler.kept_library(tmp_path, compiler.find_compiler())))
    generator = torch.Generator().manual_seed(0)
    weight, x = torch.randn(72, 48, generator=generator), torch.randn(15, 48, generator=generator)
    torch.testing.assert_close(CompiledMatrix(library, weight)(x), CompiledMatrix(compiler.library(), weight)(x))
    model = make_gpt()
    monkeypatch.setattr(compiler, "_load", lambda: library)
    network = PackedNetwork(model, "int8", "yes")
    cache = KVCache.empty(model.config, 2, 12, torch.empty(0, dtype=network.cache_dtype))
    ids = torch.randint(0, VOCABULARY.size, (2, 6), generator=generator)
    assert allowed(torch.cat([network(part, cache=cache) for part in ids.split(2, dim=1)], 1), model(ids))


@needs_compiler
def test_a_library_is_made_once_and_of_this_source(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder, command = compiler.kept_folder(), compiler.find_compiler()
    assert folder == tmp_path / "triforce" / "compiled"
    assert folder.stat().st_mode & 0o777 == 0o700
    path = compiler.kept_library(folder, command)
    made = path.stat().st_mtime_ns
    assert compiler.kept_library(folder, command) == path
    assert path.stat().st_mtime_ns == made
    source = shutil.copytree(compiler.SOURCE.parent, tmp_path / "source")
    monkeypatch.setattr(compiler, "SOURCE", source / "step.c")
    assert compiler.kept_library(folder, command) == path
    header = source / "int8_products.h"
    header.write_text(header.read_text() + "\n")
    assert compiler.kept_library(folder, command) != path
    assert len(list(folder.iterdir())) == 2  # nothing temporary is left
    header.write_text("no C")
    with pytest.raises(OSError, match="error"):
        compiler.kept_library(folder, command)
    assert len(list(folder.iterdir())) == 2


@needs_compiler
def test_a_compiler_without_openmp_makes_a_step_of_one_thread(tmp_path):
    picky = tmp_path / "cc"
    given = shlex.join(compiler.find_compiler())
    picky.write_text(f'#!/bin/sh\ncase " $* " in *" -fopenmp "*) exit 1;; esac\nexec {given} "$@"\n')
    picky.chmod(0o755)
    path = compiler.kept_library(tmp_path, [str(picky)])
    assert b"GOMP_parallel" not in path.read_bytes()
    whole = compiler.kept_library(tmp_path, compiler.find_compiler())
    assert (b"GOMP_parallel" in whole.read_bytes()) == compiler.shares_threads()
    weight, x = torch.randn(32, 16), torch.randn(3, 16)
    one, other = (CompiledMatrix(ctypes.CDLL(str(each)), weight)(x) for each in (path, whole))
    assert torch.equal(one, other)


def test_a_folder_that_others_write_to_is_not_loaded_from(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    compiler.kept_folder().chmod(0o777)
    assert compiler.kept_folder() is None
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert compiler.kept_folder() is None


@pytest.mark.parametrize("command", ["false", "no-compiler-of-this-name"])
def test_without_a_compiler_it_draws_all_the_same(command, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("CC", command)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    compiler._load.cache_clear()
    try:
        with caplog.at_level(logging.INFO):
            network = PackedNetwork(make_gpt(), "int8")
        assert not network.compiled
        assert "without a compiled step" in caplog.text
        cache = KVCache.empty(network.config, 1, 4, torch.empty(0, dtype=network.cache_dtype))
        assert network(torch.zeros(1, 1, dtype=torch.int64), cache=cache).isfinite().all()
        with pytest.raises(ValueError, match="compiled yes"):
            Release.load(compiled="yes")
    finally:
        compiler._load.cache_clear()


@needs_compiler
def test_a_release_draws_by_it_where_it_may(monkeypatch):
    assert Release.load(precision="int8").drawn_in == "int8 compiled"
    assert Release.load(precision="int8", compiled="no").drawn_in == "int8"
    assert Release.load(precision="float32").drawn_in == "float32"
    with pytest.raises(ValueError, match="compiled yes with precision float32"):
        Release.load(precision="float32", compiled="yes")


@needs_compiler
def test_a_text_draws_the_same_whatever_is_read_beside_it():
    release = Release.load(precision="int8", compiled="yes")
    texts = ["A narrow path led down.", "Yes.", "Nobody asked the captain.", "It is late.", "Who is there?", "Come in."]
    sampling = SamplingConfig(max_codes=40)
    together = release.draw_all(texts, seeds=range(6), sampling=sampling)
    for seed, (text, found) in enumerate(zip(texts, together, strict=True)):
        alone = release.draw_all([text], seeds=[seed], sampling=sampling)[0][0]
        assert alone.codes.tolist() == found[0].codes.tolist()
