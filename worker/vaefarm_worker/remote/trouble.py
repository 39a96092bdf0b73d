"""What can be wrong with an endpoint's answer, as one tree. Private to this package: what leaves it is a FarmError.

Trouble            no picture came; says nothing of whose fault it is
 - Refused         400, 413, 415, 422: it will not decode this job
 - Away            no fault of the job's
     - Asleep      429, 503, no connection: later, perhaps
     - Gone        401, 403, 404, 405, 410, a certificate that is not trusted: until somebody mends it
     - Redirected  3xx, which is never followed
 - TimedOut        no answer, or not all of it, in time
 - Broken          reset, half a body, any other 5xx
 - Garbled         a picture that is none, with a status that says that it is
"""


class Trouble(Exception):
    """No picture came. The text is one line, without secrets."""

    def __init__(self, message: str, retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        #: When the endpoint wants to be asked again, where it said so.
        self.retry_after_seconds = retry_after_seconds


class Refused(Trouble):
    """The endpoint will not decode this job: to ask it again changes nothing."""


class Away(Trouble):
    """The endpoint decodes nothing just now: no fault of the job's."""


class Asleep(Away):
    """It may decode again by itself."""

    def __init__(self, message: str, retry_after_seconds: float | None = None, *, busy: bool = False) -> None:
        super().__init__(message, retry_after_seconds)
        #: It works, and has enough to do.
        self.busy = busy


class Gone(Away):
    """It will not decode until somebody mends it, or the catalogue."""


class Redirected(Away):
    """It names another place, to which neither latents nor a token are sent."""


class TimedOut(Trouble):
    """No answer, or not all of it, in time."""


class Broken(Trouble):
    """The connection or the endpoint broke off."""


class Garbled(Trouble):
    """What came is not what was asked for."""
