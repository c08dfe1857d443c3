"""S3 for the store: how its server is reached, and what its answers mean.

boto3 does the store's work, pyarrow serves libraries that want a file system; both are told the
same here: how long a server may be silent, and which one it is. Keys come from the environment,
never from an address.
"""

import errno
from contextlib import closing
from typing import Any
from urllib.parse import parse_qs, urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError, IncompleteReadError
from botocore.exceptions import ConnectionError as NotConnected
from pyarrow import fs

from market.errors import QuaverError

CONNECT_S, SILENCE_S, ATTEMPTS = 5.0, 30.0, 3
MAX_THREADS = 32  # That use a store at once without waiting for each other.
CONFIG = Config(
    max_pool_connections=MAX_THREADS,
    connect_timeout=CONNECT_S,
    read_timeout=SILENCE_S,
    retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
)
CHECK_CONFIG = Config(connect_timeout=3, read_timeout=5, retries={"total_max_attempts": 1})
_URI_OPTIONS = {"region", "scheme", "endpoint_override"}
LOST_RACE = {"PreconditionFailed", "ConditionalRequestConflict", "412", "409"}
ABSENT = {"NoSuchKey", "404"}
UNCHANGED = {"NotModified", "304"}
_FULL_ERRNOS = {errno.ENOSPC, errno.EDQUOT}
_FULL_STATUS = 507
_FULL = {"QuotaExceeded", "XMinioAdminBucketQuotaExceeded"}  # Of Ceph and MinIO: not status 507.
_SLOW = "RequestTimeout"  # With status 400, although the network was at fault.


def check_uri(root: str) -> None:
    """Refuse an S3 address with keys in it, without repeating them, or with unknown options."""
    parts = urlsplit(root)
    if "@" in parts.netloc or {"access_key", "secret_key"} & set(parse_qs(parts.query)):
        raise QuaverError(
            "a data root must not hold keys, they would end up in logs; give s3://bucket/prefix "
            "and set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment"
        )
    if unknown := sorted(set(parse_qs(parts.query)) - _URI_OPTIONS):
        raise QuaverError(
            f"the data root s3://{parts.netloc}{parts.path} has the unknown options "
            f"{', '.join(unknown)}; it may have {', '.join(sorted(_URI_OPTIONS))}"
        )


def _options(root: str) -> dict[str, str]:
    return {name: values[-1] for name, values in parse_qs(urlsplit(root).query).items()}


def client(root: str, config: Config) -> Any:
    """Return a boto3 client, which threads may share."""
    options = _options(root)
    endpoint = options.get("endpoint_override")
    if endpoint and "://" not in endpoint:
        endpoint = f"{options.get('scheme', 'https')}://{endpoint}"
    session = boto3.session.Session()  # One's own: the default one is not for several threads.
    return session.client(
        "s3", region_name=options.get("region"), endpoint_url=endpoint, config=config
    )


def filesystem(root: str, client: Any) -> fs.S3FileSystem:
    """Return the file system of the server that a boto3 client talks to.

    A bucket of Amazon's is looked up where it is not said in which region it lies.
    """
    server = urlsplit(client.meta.endpoint_url)
    of_amazon = server.netloc.endswith(".amazonaws.com")
    region = _options(root).get("region")
    if region is None and of_amazon:
        region = fs.resolve_s3_region(urlsplit(root).netloc)
    return fs.S3FileSystem(
        region=region or client.meta.region_name,
        scheme=server.scheme,
        endpoint_override=None if of_amazon else server.netloc,
        connect_timeout=CONNECT_S,
        request_timeout=SILENCE_S,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=ATTEMPTS),
    )


def is_away(e: BotoCoreError | ClientError) -> bool:
    """Whether a server could not be reached or is in trouble; else the request was wrong."""
    if isinstance(e, ClientError):
        status = _status(e)
        trouble = status >= 500 or status in (408, 429) or code(e) == _SLOW
        return trouble and not is_full(e)
    return isinstance(e, HTTPClientError | NotConnected | IncompleteReadError)


def is_full(e: Exception) -> bool:
    """Whether an error says that there is no room: that does not pass by waiting."""
    if isinstance(e, ClientError):
        return _status(e) == _FULL_STATUS or code(e) in _FULL
    return isinstance(e, OSError) and e.errno in _FULL_ERRNOS


def _status(e: ClientError) -> int:
    return int(e.response["ResponseMetadata"]["HTTPStatusCode"])


def body_of(answer: dict[str, Any]) -> bytes:
    """Return an object's bytes; errors are boto3's, which those of its body in a `with` are not."""
    with closing(answer["Body"]) as body:
        return bytes(body.read())


def code(e: BotoCoreError | ClientError) -> str:
    """Return the code of a server's answer, "" if there was none."""
    return str(e.response["Error"]["Code"]) if isinstance(e, ClientError) else ""
