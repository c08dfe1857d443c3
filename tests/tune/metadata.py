"""The metadata service of a spot machine on EC2, as far as notices go (IMDSv2), over loopback."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType


class MetadataServer:
    """Answers 404 until `notice`; every request needs the token that was given out last."""

    def __init__(self) -> None:
        self._noticed = threading.Event()
        self._tokens = 0
        self.asked = threading.Semaphore(0)  # Released with each answer to a good request.
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_PUT(self) -> None:
                ttl = self.headers.get("X-aws-ec2-metadata-token-ttl-seconds", "")
                if self.path != "/latest/api/token" or not 1 <= int(ttl or 0) <= 21600:
                    return self._answer(400, "")
                outer._tokens += 1
                return self._answer(200, outer._token)

            def do_GET(self) -> None:
                if self.headers.get("X-aws-ec2-metadata-token") != outer._token:
                    return self._answer(401, "")
                noticed = outer._noticed.is_set()
                if not noticed or self.path != "/latest/meta-data/spot/instance-action":
                    self._answer(404, "")
                else:
                    notice = {"action": "terminate", "time": "2026-08-09T08:22:00Z"}
                    self._answer(200, json.dumps(notice))
                outer.asked.release()

            def _answer(self, status: int, text: str) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def _token(self) -> str:
        return f"token-{self._tokens}"

    def notice(self) -> None:
        """From here on the machine is to be taken away."""
        self._noticed.set()

    def expire_token(self) -> None:
        """From here on no token that was given out is good."""
        self._tokens += 1

    def __enter__(self) -> "MetadataServer":
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
