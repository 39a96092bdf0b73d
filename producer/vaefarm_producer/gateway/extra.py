"""What a gateway needs besides what every install has."""

from collections.abc import Iterator
from contextlib import contextmanager

from vaefarm_shared.errors import ConfigurationError


@contextmanager
def gateway_extra() -> Iterator[None]:
    """Import within what needs the gateway's libraries: a client's install has none. Raises ConfigurationError."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise ConfigurationError(f"the gateway needs {error.name}: pip install 'vaefarm[gateway]'") from error
