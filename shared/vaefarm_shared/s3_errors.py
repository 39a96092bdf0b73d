"""What an error of S3 means to a farm: gone, away, or refused. None of it shows a URL, a key or a signature."""

import re
from typing import Final

from .errors import FarmError, InvalidStore, StoreAway

#: Codes that pass by themselves: a store with too much to do, credentials that are just being replaced.
PASSING_CODES: Final = frozenset(
    {"BadDigest", "ExpiredToken", "IncompleteBody", "InternalError", "OperationAborted", "RequestExpired"}
    | {"RequestLimitExceeded", "RequestTimeTooSkewed", "RequestTimeout", "ServiceUnavailable", "SlowDown"}
    | {"Throttling", "ThrottlingException", "TokenRefreshRequired", "XAmzContentSHA256Mismatch"}
)

#: Codes and statuses of an object that is not there.
GONE_CODES: Final = frozenset({"NoSuchKey", "InvalidRange", "404", "416"})

#: What to do about a refusal, by its code.
ADVICE: Final[dict[str, str]] = {
    "AccessDenied": "; docs/storage.md has the policy that it needs",
    "403": "; docs/storage.md has the policy that it needs",
    "NoSuchBucket": "; make the bucket, or correct its name",
    "InvalidAccessKeyId": "; is AWS_ENDPOINT_URL that of the store whose credentials these are?",
    "SignatureDoesNotMatch": "; is AWS_SECRET_ACCESS_KEY right?",
    "PermanentRedirect": "; is AWS_REGION the bucket's?",
    "AuthorizationHeaderMalformed": "; is AWS_REGION the bucket's?",
}


class Gone(FarmError):
    """There is no such object."""


def meaning(error: Exception, operation: str) -> Exception:
    """The error that is raised in place of one of s3fs', botocore's or the network's.

    Returns:
        Gone; StoreAway where the same may succeed later; InvalidStore where somebody must mend something; what is no
        error of the store's as it is.
    """
    from aiohttp import ClientError
    from botocore.exceptions import (
        BotoCoreError,
        ConnectionError,
        CredentialRetrievalError,
        HTTPClientError,
        NoCredentialsError,
    )
    from botocore.parsers import ResponseParserError

    passing = (ConnectionError, HTTPClientError, CredentialRetrievalError, ResponseParserError, ClientError, OSError)

    for found in (error, error.__cause__):
        response = getattr(found, "response", None)
        if isinstance(response, dict):
            return _answered(response, operation)
    kind = type(error).__name__
    if isinstance(error, NoCredentialsError):
        return InvalidStore(
            "there are no credentials for the store: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or"
            " give this machine a role"
        )
    if isinstance(error, passing):
        return StoreAway(f"the store does not answer ({operation}: {kind}); is it running, and AWS_ENDPOINT_URL right?")
    if isinstance(error, BotoCoreError):
        return InvalidStore(f"the store cannot be asked ({operation}: {kind}); are the AWS_* variables right?")
    return error


def _answered(response: dict[str, dict[str, object]], operation: str) -> FarmError:
    told = str(response.get("Error", {}).get("Code", ""))
    code = told if re.fullmatch(r"[A-Za-z0-9.]{1,60}", told) else "an unknown code"
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    if code in GONE_CODES and operation in ("get_object", "delete_object"):
        return Gone("there is no such object")
    if code in PASSING_CODES or (isinstance(status, int) and (status >= 500 or status == 429)):
        return StoreAway(f"the store does not do it just now ({operation}: {code})")
    return InvalidStore(f"the store refuses {operation}: {code}{ADVICE.get(code, '')}")
