"""Why a Redis lets nobody in, or does not let this user: what to change, in one line.

redis-py tells of a certificate that is not trusted, of a file that is not there and of a server that is away by the
same error: what lies beneath it tells which.
"""

import socket
import ssl
from collections.abc import Iterator, Mapping
from typing import Any, Final

import redis

#: Alerts by which a server says that it wants another client certificate, or any.
NO_CERTIFICATE: Final = frozenset({"TLSV13_ALERT_CERTIFICATE_REQUIRED", "SSLV3_ALERT_HANDSHAKE_FAILURE"})

#: The one by which it says that it speaks something else.
NO_TLS: Final = frozenset({"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE"})

#: What is in an error that an ACL is the cause of; in a script's, from Redis 7 on, and before.
FORBIDDEN: Final = ("NOPERM", "ACL failure in script", "The user executing the script can't")

#: Seconds that a server may take to say why it has closed a connection.
ALERT_SECONDS: Final[float] = 1.0

OWN_CERTIFICATE: Final = "name one that its CA signed with ssl_certfile=FILE and ssl_keyfile=FILE in VAEFARM_REDIS_URL"


def refusal_of(error: Exception) -> str | None:
    """What Redis refuses, or what of its certificate is wrong, and what to do; None for one that is away for now."""
    if isinstance(error, redis.AuthenticationError):
        return f"refuses the login: {str(error).rstrip('.')}; are user and password in VAEFARM_REDIS_URL right?"
    if isinstance(error, redis.ResponseError):
        return forbidden(error)
    if isinstance(error, redis.exceptions.InvalidResponse):
        return f"is no Redis: {str(error).rstrip('.')}; check host and port in VAEFARM_REDIS_URL"
    for cause in causes(error):
        if isinstance(cause, ssl.SSLError):
            return of_certificates(cause)
        if isinstance(cause, FileNotFoundError | PermissionError) and not isinstance(error, redis.TimeoutError):
            # A socket of unix:// that is not there yet is a Redis that is away.
            return None if "unix" in str(error) else f"cannot be asked over TLS: a file of {file_options()} is missing"
    return None


def forbidden(error: redis.ResponseError) -> str | None:
    """What an ACL does not let this user do."""
    text = str(error)
    if not isinstance(error, redis.exceptions.NoPermissionError) and not any(one in text for one in FORBIDDEN):
        return None
    return f"lacks a permission for this user: {text.rstrip('.')}; `vaefarm acl` writes users with what each part needs"


def of_certificates(error: ssl.SSLError) -> str | None:
    """What is wrong with a certificate, on either side; None for a connection that broke."""
    if isinstance(error, ssl.SSLCertVerificationError):
        why = (error.verify_message or str(error)).rstrip(".")
        return f"has a certificate that is not trusted: {why}; ssl_ca_certs=FILE in VAEFARM_REDIS_URL names its CA's"
    reason = getattr(error, "reason", None) or ""
    if reason in NO_CERTIFICATE:
        return f"wants a client certificate ({reason}): {OWN_CERTIFICATE}"
    if reason in NO_TLS:
        return "does not speak TLS at that port: expected redis:// in VAEFARM_REDIS_URL, or its TLS port"
    if "ALERT" in reason:
        return f"does not believe the client certificate, or speaks another TLS ({reason}): {OWN_CERTIFICATE}"
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError | ssl.SSLSyscallError) or "EOF" in reason:
        return None
    return f"cannot be asked over TLS: {reason or error}; is a file of {file_options()} no PEM, or of another pair?"


def alert_of(options: Mapping[str, Any]) -> ssl.SSLError | None:
    """Why a server has closed a TLS connection as it began, by asking it once more; None where it says nothing.

    In TLS 1.3 a client certificate is looked at when the client believes to be let in: what it writes then may fail
    before it reads why.

    Args:
        options: The connection's, as redis-py's pool keeps them.
    """
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        if options.get("ssl_certfile"):
            context.load_cert_chain(options["ssl_certfile"], options.get("ssl_keyfile"))
        place = (options.get("host", "localhost"), options.get("port", 6379))
        with socket.create_connection(place, ALERT_SECONDS) as plain, context.wrap_socket(plain) as over_tls:
            over_tls.recv(1)
    except ssl.SSLError as error:
        return error
    except OSError:
        pass
    return None


def is_closed(error: Exception) -> bool:
    """Whether the other side has closed a connection, rather than not opened it."""
    kinds = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ConnectionResetError, BrokenPipeError)
    return "closed by server" in str(error) or any(isinstance(cause, kinds) for cause in causes(error))


def file_options() -> str:
    """The options of a URL that name files."""
    return "ssl_ca_certs, ssl_certfile, ssl_keyfile"


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error, and what it was raised for, one after the other."""
    seen = 0
    while error is not None and seen < 10:
        yield error
        error, seen = error.__cause__ or error.__context__, seen + 1
