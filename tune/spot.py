"""Notice of a spot machine's end: some two minutes in which a trial can save where it is.

It is asked for at the machine's metadata address, in the form of EC2 (IMDSv2: a token first, then
`spot/instance-action`, which is 404 until there is a notice), or looked for as a file, which any
other service can write.
"""

import contextlib
import http.client
import logging
import threading
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Annotated

import msgspec

_TOKEN, _ACTION = "/latest/api/token", "/latest/meta-data/spot/instance-action"
_TTL_HEADER, _TOKEN_HEADER = "X-aws-ec2-metadata-token-ttl-seconds", "X-aws-ec2-metadata-token"
_TOKEN_LIFE_S = 3600  # After that it is refused (401), and another is asked for.
_TIMEOUT_S = 2.0
log = logging.getLogger(__name__)


class SpotConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where a notice of the machine's end is looked for; by default nowhere."""

    metadata_url: Annotated[
        Annotated[str, msgspec.Meta(pattern="^https?://")] | None,
        msgspec.Meta(description="metadata service of the machine, http://169.254.169.254 on EC2"),
    ] = None
    notice_file: Annotated[
        str | None, msgspec.Meta(description="file that is there from the notice on")
    ] = None
    poll_s: Annotated[
        float, msgspec.Meta(gt=0, le=30, description="look this often; the notice is short")
    ] = 3.0


class Notice:
    """Looks for a notice in the background, from entering to leaving."""

    def __init__(self, config: SpotConfig) -> None:
        self._config = config
        self._metadata = config.metadata_url and _Metadata(config.metadata_url.rstrip("/"))
        self._noticed, self._ended = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._watch, name="spot notice", daemon=True)

    def __enter__(self) -> "Notice":
        if self._config.metadata_url or self._config.notice_file:
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()

    def take(self) -> bool:
        """Whether there is a notice that was not taken before: true once.

        A notice may be withdrawn, or a machine come back; then the next one counts.
        """
        if not self._noticed.is_set():
            return False
        self._noticed.clear()
        return True

    def _watch(self) -> None:
        was_there = False
        while not self._ended.is_set():
            is_there = self._is_there()
            if is_there and not was_there:
                log.warning("this machine is to be taken away; trials save where they are")
                self._noticed.set()
            was_there = is_there
            self._ended.wait(self._config.poll_s)

    def _is_there(self) -> bool:
        file = self._config.notice_file
        if file and Path(file).exists():
            return True
        return bool(self._metadata and self._metadata.has_notice())


class _Metadata:
    """The metadata service of a machine."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._token = ""
        # A proxy of the environment would answer for another machine.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def has_notice(self) -> bool:
        """Whether the machine is to be stopped; false where the service does not answer well."""
        with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
            self._token = self._token or self._ask("PUT", _TOKEN, {_TTL_HEADER: str(_TOKEN_LIFE_S)})
            try:
                self._ask("GET", _ACTION, {_TOKEN_HEADER: self._token})
                return True
            except urllib.error.HTTPError as e:
                if e.code != 404:
                    self._token = ""
        return False

    def _ask(self, method: str, path: str, headers: dict[str, str]) -> str:
        request = urllib.request.Request(self._url + path, method=method, headers=headers)
        try:
            with self._opener.open(request, timeout=_TIMEOUT_S) as answer:
                return str(answer.read().decode())
        except urllib.error.HTTPError as e:
            e.close()
            raise
