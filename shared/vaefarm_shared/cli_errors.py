"""Running a command so that a user sees one line and an exit code, never a traceback."""

import sys
from collections.abc import Callable
from typing import Any, Final

import typer
from redis import AuthenticationError, RedisError
from redis.exceptions import NoPermissionError

from .errors import ConfigurationError, FarmError, InvalidInput, RedisRefused

#: Exit codes: something went wrong; the input, the usage or the configuration was; Ctrl-C.
EXIT_FAILED: Final[int] = 1
EXIT_USAGE: Final[int] = 2
EXIT_INTERRUPTED: Final[int] = 130

#: What is raised for options that cannot be read, of click or of typer's own copy of it, and what without any.
USAGE_ERROR: Final[Any] = typer.BadParameter.__mro__[1]
NO_ARGUMENTS: Final[str] = "NoArgsIsHelpError"


def run(app: Callable[..., Any]) -> int:
    """Run a typer application; return its exit code. Errors of ours are one line on standard error."""
    try:
        code = app(standalone_mode=False)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else EXIT_FAILED
    except USAGE_ERROR as error:
        return _say_usage(error)
    except (InvalidInput, ConfigurationError, RedisRefused, AuthenticationError, NoPermissionError) as error:
        return _say(error, EXIT_USAGE)
    except (FarmError, RedisError) as error:
        return _say(error, EXIT_FAILED)
    except (KeyboardInterrupt, typer.Abort):
        return EXIT_INTERRUPTED
    return code if isinstance(code, int) else 0


def _say(error: Exception | str, code: int) -> int:
    print(f"vaefarm: {error}", file=sys.stderr)
    return code


def _say_usage(error: Any) -> int:
    if type(error).__name__ == NO_ARGUMENTS:
        error.show()
        return EXIT_USAGE
    context = error.ctx
    hint = f"; see `{context.command_path} --help`" if context is not None else ""
    return _say(" ".join(error.format_message().split()).rstrip(".") + hint, EXIT_USAGE)
