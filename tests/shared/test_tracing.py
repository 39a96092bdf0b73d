"""Tracing: what counts as a traceparent, what asks for it, and that it does nothing where nobody does."""

import logging
import os
import subprocess
import sys

import pytest

from vaefarm_shared import tracing

GOOD = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.mark.parametrize("text", [GOOD, GOOD[:-1] + "0", "cc" + GOOD[2:], "cc" + GOOD[2:] + "-what-is-to-come"])
def test_a_traceparent_of_this_version_and_of_those_to_come_is_one(text: str) -> None:
    assert tracing.is_traceparent(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nonsense",
        GOOD.upper(),
        GOOD + "-more",
        GOOD + "\n",
        "ff" + GOOD[2:],
        "00-" + "0" * 32 + GOOD[35:],
        GOOD[:36] + "0" * 16 + GOOD[52:],
    ],
)
def test_anything_else_is_none(text: str) -> None:
    assert not tracing.is_traceparent(text)


@pytest.mark.parametrize("installed", [True, False])
def test_without_a_provider_of_spans_nothing_is_done(installed: bool) -> None:
    hidden = "pass" if installed else "sys.modules['opentelemetry'] = None"
    code = (
        f"import sys; {hidden}\n"
        "from vaefarm_shared import tracing; from vaefarm_producer import Farm; tracing.configure('x')\n"
        f"with tracing.span('a', parent={GOOD!r}, links=[None]) as one: assert one is None\n"
        "tracing.record('b', 0.0, 1.0); tracing.shutdown(); assert tracing.current() is None\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_standard_variables_switch_it_on_and_the_spans_go_where_they_say() -> None:
    code = (
        "from vaefarm_shared import tracing; tracing.configure('vaefarm-test')\n"
        f"with tracing.span('seen', parent={GOOD!r}): pass\n"
        "tracing.shutdown()"
    )
    env = os.environ | {"OTEL_TRACES_EXPORTER": "console"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert '"name": "seen"' in done.stdout
    assert "0af7651916cd43dd8448eb211c80319c" in done.stdout
    assert '"service.name": "vaefarm-test"' in done.stdout


def test_traces_that_are_asked_for_where_opentelemetry_is_missing_are_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk", None)
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.resources", None)
    with caplog.at_level(logging.WARNING):
        tracing.configure("x")
    assert "pip install 'vaefarm[otel]'" in caplog.text
