"""A running llama-server, as a user of the release starts it, and the official client to drive it."""

import json
import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from openai import OpenAI

from phase_twin.engine import ENVIRONMENT

SECONDS = 60  # to start or to end


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """Runs `command`, which ends in arguments for llama-server, until the end of the block."""

    def __init__(self, command: Sequence[str | Path], log: Path, env: dict[str, str] | None = None) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log_path = log
        self.command = [*map(str, command), "--port", str(self.port)]
        self.env = (env or dict(os.environ)) | ENVIRONMENT

    @property
    def log(self) -> str:
        """Everything that the server has said."""
        return self.log_path.read_text(errors="replace")

    def __enter__(self) -> Self:
        with open(self.log_path, "wb") as sink:
            self.process = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, env=self.env
            )
        end = time.monotonic() + SECONDS
        while not self.healthy():
            assert self.process.poll() is None, self.log[-3000:]
            assert time.monotonic() < end, self.log[-3000:]
            time.sleep(0.1)
        self.client = OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=SECONDS)
        return self

    def healthy(self) -> bool:
        try:
            return bool(self.get("/health"))
        except OSError:
            return False

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(self.url + path, timeout=SECONDS) as reply:
            return json.load(reply)

    def stop(self, how: int = signal.SIGTERM) -> int:
        """Send a signal and return the exit code."""
        self.process.send_signal(how)
        return self.process.wait(SECONDS)

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            try:
                self.stop()
            except subprocess.TimeoutExpired:
                self.process.kill()
                raise

    def chat(self, text: str | list[dict[str, Any]], *, grammar: str | None = None, **options: Any) -> Any:
        """One answer to one message, its text forced by `grammar`; options unknown to the client go to the server."""
        known = {key: options.pop(key) for key in ("stream", "max_tokens", "temperature") if key in options}
        if grammar is not None:
            options["grammar"] = f"root ::= {json.dumps(grammar)}"
        message = {"role": "user", "content": text}
        return self.client.chat.completions.create(model="twin", messages=[message], extra_body=options, **known)
