"""The child process that does a full update: started, looked at, started again when it dies."""

import os
import subprocess
import sys
import time
from pathlib import Path

from contract import log
from contract.settings import Settings, environment_of

RETRY_S, RETRY_MAX_S = 0.5, 60.0
STOP_S = 10


class Child:
    """One run of `trainer.full` after the other, until one ends well."""

    def __init__(self, settings: Settings, path: Path) -> None:
        self.command = [sys.executable, "-m", "trainer.full", str(path.absolute())]
        self.environment = {**os.environ, **environment_of(settings)}
        self.deaths, self.code = 0, 0
        self._again_at = 0.0
        self._process: subprocess.Popen[bytes] | None = None

    def has_done(self) -> bool:
        """Look after it; True once it has ended well."""
        if self._process is None:
            if time.monotonic() >= self._again_at:
                self._process = subprocess.Popen(self.command, stdin=subprocess.PIPE, env=self.environment)
            return False
        code = self._process.poll()
        if code is None:
            return False
        self._forget()
        if code == 0:
            return True
        self.deaths, self.code = self.deaths + 1, code
        self._again_at = time.monotonic() + min(RETRY_S * 2**self.deaths, RETRY_MAX_S)
        log.get().warning("full_update_died", code=code, deaths=self.deaths)
        return False

    def stop(self) -> None:
        """End it, if it runs: its standard input ends."""
        if self._process is None:
            return
        process = self._process
        self._forget()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _forget(self) -> None:
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
        self._process = None
