"""Running a command so that a user sees one line and an exit code, never a traceback."""

import sys
from collections.abc import Callable
from typing import Any, Final

from redis import RedisError

from .errors import FarmError, InvalidInput

#: Exit codes: something went wrong; the input or usage was; Ctrl-C.
EXIT_FAILED: Final[int] = 1
EXIT_USAGE: Final[int] = 2
EXIT_INTERRUPTED: Final[int] = 130


def run(app: Callable[..., Any]) -> int:
    """Run a typer application; return its exit code. Errors of ours are one line on standard error."""
    try:
        app(standalone_mode=True)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else EXIT_FAILED
    except InvalidInput as error:
        return _say(error, EXIT_USAGE)
    except (FarmError, RedisError) as error:
        return _say(error, EXIT_FAILED)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    return 0


def _say(error: Exception, code: int) -> int:
    print(f"vaefarm: {error}", file=sys.stderr)
    return code
