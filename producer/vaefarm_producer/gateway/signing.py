"""Signed URLs: whoever has one may see one job's picture, or follow its events, until it is past its time."""

from typing import Final, Literal

from aiohttp import web
from itsdangerous import BadSignature, SignatureExpired, TimestampSigner

from vaefarm_shared.errors import Forbidden

from .desk import desk_of

#: What a signed URL is good for.
Purpose = Literal["picture", "stream"]

#: The parameter that carries the signature.
TOKEN: Final[str] = "token"


class Signer:
    """Makes and reads signed URLs; gateways that know the same secret read one another's."""

    def __init__(self, secret: bytes, seconds: int) -> None:
        self._signers = {
            purpose: TimestampSigner(secret, salt=f"vaefarm.{purpose}") for purpose in ("picture", "stream")
        }
        self._seconds = seconds

    def picture_url(self, request: web.Request, job_id: str, index: int) -> str:
        """Where anyone sees a picture, for a while."""
        return self._url(request, "picture", job_id, f"/v1/jobs/{job_id}/image/{index}")

    def stream_url(self, request: web.Request, job_id: str) -> str:
        """Where anyone follows a job, for a while."""
        return self._url(request, "stream", job_id, f"/v1/jobs/{job_id}/events")

    def _url(self, request: web.Request, purpose: Purpose, job_id: str, path: str) -> str:
        token = self._signers[purpose].sign(job_id).decode().removeprefix(f"{job_id}.")
        return f"{base_of(request)}{path}?{TOKEN}={token}"

    def check(self, purpose: Purpose, job_id: str, token: str) -> None:
        """Return if a token is good for that job and purpose. Raises Forbidden."""
        try:
            self._signers[purpose].unsign(f"{job_id}.{token}", max_age=self._seconds)
        except SignatureExpired as error:
            raise Forbidden("this signed URL is past its time; ask for the job anew to get another") from error
        except BadSignature as error:
            raise Forbidden("this signed URL is not for that, or was changed") from error


def base_of(request: web.Request) -> str:
    """The gateway's address as its clients see it, without a slash at the end."""
    public = desk_of(request).settings.public_url
    return public.rstrip("/") if public else f"{request.scheme}://{request.host}"


#: Where an application keeps its signer.
SIGNER: Final = web.AppKey("signer", Signer)


def signer_of(request: web.Request) -> Signer:
    """The signer of the application that a request came to."""
    return request.app[SIGNER]
