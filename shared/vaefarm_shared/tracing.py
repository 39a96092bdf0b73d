"""Tracing with OpenTelemetry, where it is installed and in use; nothing at all otherwise.

A job carries its W3C `traceparent` from whoever made it to whoever ends it. `configure` is for entry points, and
follows the standard `OTEL_*` variables; a program that uses `Farm` has configured OpenTelemetry itself, or nothing here
does anything. `tracestate` and baggage are not kept.
"""

import logging
import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final, Literal

logger = logging.getLogger(__name__)

#: Version, trace id, span id, flags; versions to come may have more behind them.
TRACEPARENT: Final = re.compile(
    r"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?"
)

#: Variables that ask for traces, one of which must be set.
WANTED: Final = ("OTEL_TRACES_EXPORTER", "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")

Kind = Literal["internal", "server", "client", "producer", "consumer"]


def is_traceparent(text: str) -> bool:
    """Whether a text is a `traceparent` as W3C's Trace Context defines it."""
    found = TRACEPARENT.fullmatch(text)
    return found is not None and (found[1] != "00" or found[5] is None)


def configure(service: str) -> None:
    """Export the spans of this process as the `OTEL_*` variables say; nothing where none of them asks for it.

    `service`: the name of the service unless a variable gives one.
    """
    exporter = os.environ.get("OTEL_TRACES_EXPORTER", "").strip().lower()
    disabled = os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    if disabled or exporter == "none" or not any(os.environ.get(name) for name in WANTED):
        return
    try:
        _install(service, exporter or "otlp")
    except ModuleNotFoundError as error:
        logger.warning("traces are asked for, and %s is not installed: pip install 'vaefarm[otel]'", error.name)


def _install(service: str, exporter: str) -> None:
    from opentelemetry import trace
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter

    chosen: SpanExporter
    if exporter == "console":
        chosen = ConsoleSpanExporter()
    elif exporter == "otlp":
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        chosen = OTLPSpanExporter()
    else:
        logger.warning("OTEL_TRACES_EXPORTER=%s is not known here; expected otlp, console or none", exporter)
        return
    named = os.environ.get("OTEL_SERVICE_NAME") or "service.name=" in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    provider = TracerProvider(resource=Resource.create({} if named else {"service.name": service}))
    provider.add_span_processor(BatchSpanProcessor(chosen))
    trace.set_tracer_provider(provider)


def _api() -> Any:
    """OpenTelemetry's API; None in a process that has not configured it."""
    api = sys.modules.get("opentelemetry.trace")
    # redis-py imports it wherever it is installed: that says nothing.
    return None if api is None or isinstance(api.get_tracer_provider(), api.ProxyTracerProvider) else api


def current() -> str | None:
    """The `traceparent` of the span that is current here; None where there is none."""
    # Also that of a program which keeps its provider to itself.
    api = sys.modules.get("opentelemetry.trace")
    return None if api is None else _traceparent(api.get_current_span().get_span_context())


def _traceparent(context: Any) -> str | None:
    if not context.is_valid:
        return None
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"


@contextmanager
def span(
    name: str, kind: Kind = "internal", parent: str | None = None, links: Iterable[str | None] = (), **attributes: Any
) -> Iterator[Any]:
    """A span that is current within, and that an exception ends as an error; gives the span, None without tracing.

    Args:
        parent: A `traceparent`; the span that is current here, unless given.
        links: The `traceparent` of each of several that it belongs to as well; what is none is left out.
        attributes: Their names' double underscores become dots.
    """
    api = _api()
    if api is None:
        yield None
        return
    tracer = api.get_tracer("vaefarm")
    options = {"kind": _kind(api, kind), "links": _links(api, links), "attributes": _dotted(attributes)}
    with tracer.start_as_current_span(name, context=_context(api, parent), **options) as one:
        yield one


def record(
    name: str,
    began: float,
    ended: float,
    kind: Kind = "internal",
    parent: str | None = None,
    links: Iterable[str | None] = (),
    error: str | None = None,
    **attributes: Any,
) -> None:
    """A span that is over, between two Unix times; for what begins on one thread and ends on another. See `span`."""
    api = _api()
    if api is None:
        return
    one = api.get_tracer("vaefarm").start_span(
        name,
        context=_context(api, parent),
        kind=_kind(api, kind),
        links=_links(api, links),
        attributes=_dotted(attributes),
        start_time=int(began * 1e9),
    )
    if error is not None:
        one.set_status(api.Status(api.StatusCode.ERROR, error))
    one.end(int(ended * 1e9))


def traceparent_of(one: Any) -> str | None:
    """The `traceparent` of a span that `span` gave; None without tracing."""
    return None if one is None else _traceparent(one.get_span_context())


def fail(one: Any) -> None:
    """Mark a span that `span` gave as one that went wrong."""
    api = _api()
    one.set_status(api.Status(api.StatusCode.ERROR))


def shutdown() -> None:
    """Export what has not been yet; for the end of a process."""
    api = _api()
    end = None if api is None else getattr(api.get_tracer_provider(), "shutdown", None)
    if end is not None:
        end()


def _kind(api: Any, kind: Kind) -> Any:
    return api.SpanKind[kind.upper()]


def _dotted(attributes: dict[str, Any]) -> dict[str, Any]:
    return {name.replace("__", "."): value for name, value in attributes.items() if value is not None}


def _span_context(api: Any, traceparent: str | None) -> Any:
    found = TRACEPARENT.fullmatch(traceparent) if traceparent and is_traceparent(traceparent) else None
    if found is None:
        return None
    flags = api.TraceFlags(int(found[4], 16))
    return api.SpanContext(int(found[2], 16), int(found[3], 16), is_remote=True, trace_flags=flags)


def _context(api: Any, traceparent: str | None) -> Any:
    """The context of a parent from elsewhere; None, which is the current one, where there is none."""
    context = _span_context(api, traceparent)
    return None if context is None else api.set_span_in_context(api.NonRecordingSpan(context))


def _links(api: Any, traceparents: Iterable[str | None]) -> list[Any]:
    contexts = (_span_context(api, one) for one in traceparents)
    return [api.Link(context) for context in contexts if context is not None]
