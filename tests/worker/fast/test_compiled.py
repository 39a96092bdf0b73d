"""A decoder is compiled for the sizes that are named, and for no other; where it cannot be, it decodes as it is."""

import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from tests.worker.items import randn
from torch import nn

from vaefarm_shared.errors import ConfigurationError
from vaefarm_worker.fast import COMPILED, FOLDED_UPSAMPLE, fast_decoder
from vaefarm_worker.fast.compiled import CompiledDecoder, keep_compiled, read_sizes

#: The backend that makes no code: graphs and their guards are those of the others, and no compiler is waited for.
TRACED = "aot_eager"

LOGGER = "vaefarm_worker.fast.compiled"

needs_compiler = pytest.mark.skipif(
    shutil.which(os.environ.get("CXX", "g++")) is None, reason="torch compiles for a CPU with g++, which is not here"
)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for compiled code, and a torch that has compiled nothing."""
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    keep_compiled(str(tmp_path / "compiled"))
    torch._dynamo.reset()
    yield tmp_path / "compiled"
    torch._dynamo.reset()
    del os.environ["TORCHINDUCTOR_CACHE_DIR"]


def network() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(4, 3, 3, padding=1), nn.SiLU(), nn.Upsample(scale_factor=2.0)).eval()


@torch.inference_mode()
def test_sizes_that_are_named_are_compiled_at_once_for_any_batch_and_others_are_decoded_as_they_are(
    cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plain = network()
    decoder = CompiledDecoder(plain, [(4, 4), (6, 8)], TRACED)
    compiled = {}
    with caplog.at_level(logging.INFO, LOGGER):
        for shape in ((1, 4, 5, 5), (1, 4, 4, 4), (3, 4, 6, 8), (2, 4, 8, 6), (7, 4, 4, 4)):
            made = decoder(randn(*shape))
            compiled[shape] = decoder.was_compiled
            assert (made - plain(randn(*shape))).abs().max() < 1e-5

    assert list(compiled.values()) == [False, True, True, False, True]
    logged = [record.getMessage() for record in caplog.records if record.name == LOGGER]
    assert [line.partition(" in ")[0].rpartition(" ")[2] for line in logged] == ["6x8", "4x4"], "the largest first"


@needs_compiler
@pytest.mark.slow
@pytest.mark.timeout(600)
@torch.inference_mode()
def test_compiled_code_gives_the_same_and_is_kept(cache: Path) -> None:
    plain = nn.Sequential(nn.SiLU(), nn.Upsample(scale_factor=2.0))
    decoder = CompiledDecoder(plain, [(4, 4)])

    made = decoder(randn(3, 4, 4, 4))

    assert decoder.was_compiled
    assert (made - plain(randn(3, 4, 4, 4))).abs().max() < 1e-5
    assert any(cache.rglob("*.so")), "what was compiled is kept"


@torch.inference_mode()
def test_what_would_have_to_be_compiled_anew_is_decoded_as_it_is_and_said_once(
    cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plain = network()
    decoder = CompiledDecoder(plain, [(4, 4)], TRACED)
    decoder(randn(1, 4, 4, 4))
    plain.double()

    for _ in range(2):
        made = decoder(randn(1, 4, 4, 4).double())
        assert torch.equal(made, plain(randn(1, 4, 4, 4).double()))
        assert not decoder.was_compiled
    assert len([record for record in caplog.records if "uncompiled from now on" in record.message]) == 1


@torch.inference_mode()
def test_where_there_is_no_compiler_one_line_says_so_and_the_plain_way_is_there(
    cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", ("/nowhere/g++",))
    plain = network()
    decoder = CompiledDecoder(plain, [(4, 4), (6, 8)])

    for shape in ((1, 4, 4, 4), (1, 4, 6, 8)):
        assert torch.equal(decoder(randn(*shape)), plain(randn(*shape)))
        assert not decoder.was_compiled
    assert len([record for record in caplog.records if record.name == LOGGER]) == 1


def test_only_decoders_that_are_faster_so_are_compiled() -> None:
    kl = AutoencoderKL(block_out_channels=(32,), norm_num_groups=8)
    tiny = AutoencoderTiny(encoder_block_out_channels=(8,) * 4, decoder_block_out_channels=(8,) * 4)

    compiled, plain = fast_decoder(kl, (), [(8, 8)]), fast_decoder(tiny, (FOLDED_UPSAMPLE,), [(8, 8)])

    assert compiled is not None
    assert plain is not None
    assert (type(compiled.module), type(plain.module)) == (CompiledDecoder, type(tiny.decoder))
    assert COMPILED not in (*compiled.switches, *plain.switches), "nothing was decoded yet"


def test_sizes_are_widths_and_heights_as_people_write_them() -> None:
    assert read_sizes(" 1024x512, 64x96,64x96,") == ((512, 1024), (96, 64))
    assert read_sizes(None) == read_sizes("") == ()


@pytest.mark.parametrize("text", ["1024", "1024x", "0x64", "64*64", "64x64;32x32", "123456x64"])
def test_what_is_no_size_is_named(text: str) -> None:
    with pytest.raises(ConfigurationError, match="--compile .*expected WIDTHxHEIGHT"):
        read_sizes(text)


def test_compiled_code_is_kept_where_the_operator_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for folder, expected in ((None, str(tmp_path / ".cache/vaefarm/compiled")), ("/srv/cache", "/srv/cache")):
        monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
        keep_compiled(folder)
        assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == expected
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/theirs")
    keep_compiled("/srv/cache")
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == "/theirs"
