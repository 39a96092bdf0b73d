"""Signed URLs: whoever has one may see one job's picture, or follow its events, until it is past its time."""

import hashlib
from typing import Final, get_args

from aiohttp import web
from itsdangerous import BadSignature, SignatureExpired, TimestampSigner

from vaefarm_shared.errors import Forbidden

from .desk import Desk, desk_of
from .routes import Purpose
from .secret import Secret, derive

#: The parameter that carries the signature.
TOKEN: Final[str] = "token"

#: What is said of every token that is none for what it came with.
NOT_FOR_THAT: Final[str] = "this signed URL is not for that, or was changed"


class Signer:
    """Makes and reads signed URLs; gateways that know the same secret read one another's."""

    def __init__(self, secret: Secret, seconds: int) -> None:
        """`seconds`: for how long a URL is good."""
        self.secret = secret
        self._seconds = seconds
        self._learned: bytes | None = None
        self._signers: dict[Purpose, TimestampSigner] = {}

    async def learn(self, desk: Desk) -> None:
        """Know the secret, for what follows at once. Raises FarmUnavailable where Redis alone could tell it."""
        secret = await self.secret.get(desk)
        if secret != self._learned:
            self._learned = secret
            self._signers = {purpose: _signer(secret, purpose) for purpose in get_args(Purpose)}

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
            signed = self._signers[purpose].unsign(f"{job_id}.{token}", max_age=self._seconds).decode()
        except SignatureExpired as error:
            raise Forbidden("this signed URL is past its time; ask for the job anew to get another") from error
        except BadSignature as error:
            raise Forbidden(NOT_FOR_THAT) from error
        # A token with a separator in it could move the border between the id and itself.
        if signed != job_id:
            raise Forbidden(NOT_FOR_THAT)


def _signer(secret: bytes, purpose: Purpose) -> TimestampSigner:
    key = derive(secret, f"url.{purpose}")
    return TimestampSigner(key, salt=b"vaefarm", key_derivation="hmac", digest_method=hashlib.sha256)


def base_of(request: web.Request) -> str:
    """The gateway's address as its clients see it, without a slash at the end."""
    public = desk_of(request).settings.public_url
    return public.rstrip("/") if public else f"{request.scheme}://{request.host}"


#: Where an application keeps its signer.
SIGNER: Final = web.AppKey("signer", Signer)


def signer_of(request: web.Request) -> Signer:
    """The signer of the application that a request came to."""
    return request.app[SIGNER]
