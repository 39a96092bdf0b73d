"""`vaefarm bench`: every figure of every case, in a table, in JSON and in a chart; what is not measured says why."""

import json
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image, ImageColor

from vaefarm_producer.cli import app
from vaefarm_shared.cli_errors import run
from vaefarm_worker.bench.modes import MODES
from vaefarm_worker.bench.subject import Subject

FIGURES = {
    *(
        "vae",
        "dtype",
        "weights",
        "size",
        "batch",
        "mode",
        "outcome",
        "reason",
        "seconds",
        "runs",
        "pictures_per_second",
    ),
    *("times_plain", "peak_bytes", "memory_share", "peak_of_plain", "flops", "limit_seconds", "limit_share"),
}

#: Exit code, standard output and standard error.
Bench = Callable[..., tuple[int, str, str]]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Bench:
    """Run the command on this process' CPU."""
    monkeypatch.setenv("COLUMNS", "100")

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["vaefarm", "bench", "--device", "cpu", "--runs", "1", *arguments])
        return run(app), *capsys.readouterr()

    return call


def read(out: str) -> Any:
    """Its JSON, in which no number is missing or NaN."""

    def refuse(name: str) -> float:
        raise AssertionError(f"{name} is no JSON")

    return json.loads(out, parse_constant=refuse)


def test_every_case_has_every_figure(bench: Bench, tmp_path: Path) -> None:
    code, out, err = bench("--sizes", "64,128", "--batches", "1,2", "--runs", "2", "--out", str(tmp_path / "new"))

    assert code == 0
    results = json.loads((tmp_path / "new" / "bench.json").read_text())
    rows = results["rows"]
    cases = [(row["vae"], row["size"], row["batch"], row["mode"]) for row in rows]
    assert cases == [("demo", size, batch, mode) for size in (64, 128) for batch in (1, 2) for mode in MODES]
    assert results["complete"]
    for row in rows:
        assert set(row) == FIGURES
        assert row["outcome"] == "measured"
        assert len(row["runs"]) == 2
        assert None not in row.values()
        assert row["pictures_per_second"] == pytest.approx(row["batch"] / row["seconds"])
        assert row["limit_share"] == pytest.approx(row["flops"] / results["peak_flops"]["float32"] / row["seconds"])
        assert 0 < row["memory_share"] < 1
    flops = {(row["size"], row["batch"]): row["flops"] for row in rows}
    assert [flops[size, 2] / flops[size, 1] for size in (64, 128)] == [2, 2]
    assert {row["times_plain"] for row in rows if row["mode"] == "plain"} == {1.0}
    shown = [tuple(line.split()[:3]) for line in out.splitlines()]
    assert [one for one in shown if one[2:] == ("plain",) and one[0].isdecimal()] == [
        (str(size), str(batch), "plain") for size in (64, 128) for batch in (1, 2)
    ]
    assert str(tmp_path / "new" / "bench.png") in err


def test_json_is_one_object_and_nothing_else(bench: Bench) -> None:
    code, out, _ = bench("--sizes", "64", "--json", "--modes", "plain")

    assert code == 0
    assert len(out.splitlines()) == 1
    assert read(out)["machine"]["device"] == "cpu"


def test_the_chart_is_a_png_as_high_as_its_rows(bench: Bench, tmp_path: Path) -> None:
    heights = []
    for sizes in ("64", "64,128"):
        assert bench("--sizes", sizes, "--modes", "plain,tiled", "--out", str(tmp_path))[0] == 0
        with Image.open(tmp_path / "bench.png") as chart:
            assert (chart.format, chart.mode, chart.width) == ("PNG", "RGB", 1600)
            heights.append(chart.height)
            # Bars of both modes are there, and more paper than anything else.
            colours = {colour: count for count, colour in chart.getcolors(1 << 24) or ()}
        assert max(colours, key=lambda colour: colours[colour]) == (255, 255, 255)
        assert min(colours.get(ImageColor.getrgb(MODES[name].colour), 0) for name in ("plain", "tiled")) > 1000

    assert heights[1] - heights[0] == 52 + 2 * (26 + 8)


def test_what_does_not_fit_is_a_row_that_says_so(bench: Bench, tmp_path: Path) -> None:
    code, out, _ = bench(
        *("--sizes", "64,512", "--modes", "plain,tiled", "--vram-limit", "16MiB", "--json", "--out", str(tmp_path))
    )

    assert code == 0
    small, *_, large = [row for row in read(out)["rows"] if row["mode"] == "plain"]
    assert (small["outcome"], large["outcome"]) == ("measured", "no room")
    assert "MiB at least" in large["reason"]
    assert (large["seconds"], large["peak_bytes"], large["limit_share"]) == (None, None, None)
    assert (tmp_path / "bench.png").is_file()


def test_a_decode_that_torch_cannot_do_fails_its_own_row_alone(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(subject: Subject, latents: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("\"a_kernel\" not implemented for 'Half'\nand many lines more")

    monkeypatch.setitem(MODES, "tiled", replace(MODES["tiled"], decode=broken))

    code, out, _ = bench("--sizes", "64,128", "--modes", "plain,tiled", "--json")

    assert code == 0
    rows = read(out)["rows"]
    assert [row["outcome"] for row in rows] == ["measured", "failed"] * 2
    assert rows[1]["reason"] == "\"a_kernel\" not implemented for 'Half'"


@pytest.fixture
def python_hears_ctrl_c() -> Iterator[None]:
    """As in a process of its own, whatever tests before this one did to the signal."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("python_hears_ctrl_c")
@pytest.mark.parametrize("as_json", [False, True])
def test_ctrl_c_gives_what_was_measured_until_then(
    as_json: bool, bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(subject: Subject, latents: torch.Tensor) -> torch.Tensor:
        calls.append(latents.shape[2])
        # The second picture size: its first calls and the plain decode's second one were made.
        if calls.count(16) == 2:
            signal.raise_signal(signal.SIGINT)
            raise AssertionError("it goes on")
        return latents

    calls: list[int] = []

    monkeypatch.setitem(MODES, "tiled", replace(MODES["tiled"], decode=interrupted))

    flags = ["--json"] if as_json else []
    code, out, err = bench("--sizes", "64,128", "--modes", "plain,tiled", "--out", str(tmp_path), *flags)

    assert code == 130
    assert "vaefarm: interrupted; 3 of 4 cases were measured" in err
    results = json.loads((tmp_path / "bench.json").read_text())
    assert (len(results["rows"]), results["complete"]) == (3, False)
    if as_json:
        assert [row["mode"] for row in read(out)["rows"]] == ["plain", "tiled", "plain"]
    else:
        assert " plain " in out


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--sizes", "512,big"), "--sizes '512,big': 'big' is no whole number from 1 to 16384"),
        (("--sizes", "0"), "--sizes '0': '0' is no whole number from 1"),
        (("--sizes", "100"), "--sizes 100: VAE 'demo' makes multiples of 8 pixels; expected such as 96"),
        (("--batches", "-1"), "--batches '-1': '-1' is no whole number from 1 to 256"),
        (("--runs", "0"), "--runs 0 is out of range; expected 1 to 1000"),
        (("--modes", "plain,tilde"), "is not known; expected some of plain"),
        (("--dtype", "int8"), "--dtype 'int8' is not offered; expected one of float32, float16, bfloat16"),
        (("--vaes", "nobody"), "VAE 'nobody' is not known"),
        (("--vaes", "sdxl"), "the weights of VAE 'sdxl' are not on this machine; `vaefarm vaes --pull sdxl`"),
        (("--vaes", "sana", "--random"), "--random knows sd-v1, sdxl,"),
        (("--vram-limit", "much"), "--vram-limit 'much' is no number of bytes"),
        (("--device", "cuda:77"), "--device cuda:77: torch "),
    ],
)
def test_what_cannot_be_measured_is_one_line_before_anything_is(
    bench: Bench, arguments: tuple[str, ...], expected: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))

    code, out, err = bench(*arguments)

    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert expected in err


def test_a_folder_that_cannot_be_made_is_told_before_anything_is_measured(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    code, out, err = bench("--out", str(tmp_path / "file"))

    assert (code, out) == (2, "")
    assert err.startswith(f"vaefarm: --out {tmp_path / 'file'} cannot be made")
