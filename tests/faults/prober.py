"""Asks the recall server all the time, as a caller behind a balancer does, and keeps account of the answers.

A query fails when it has no answer below 500 within a second. A connection that breaks is tried once more (a GET may
be: RFC 9110, 9.2.2), as every balancer and HTTP client does, after RETRY_S: the kernel closes what a killed process
held one by one, and a new connection may still land in its queue. How often that was needed is counted too.
"""

import contextlib
import http.client
import json
import random
import threading
import time
from collections import Counter

from tests.faults.traffic import USERS

LIMIT_S = 1.0
RETRY_S = 0.05
KEPT = 20


class Prober:
    """Threads that ask: one keeps its connection, the others open a new one for each query."""

    def __init__(self, port: int, per_second: float = 20, threads: int = 2) -> None:
        self._port, self._pause_s = port, threads / per_second
        self._ending, self._lock = threading.Event(), threading.Lock()
        self._threads = [threading.Thread(target=self._run, args=(n,), name=f"prober-{n}") for n in range(threads)]
        self.queries = self.failed = self.retried = self.degraded = 0
        self.slowest_s = 0.0
        self.reasons: Counter[str] = Counter()
        self.failures: list[tuple[float, str]] = []

    def start(self) -> None:
        """Begin to ask."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stop asking."""
        self._ending.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join()

    def _run(self, number: int) -> None:
        draw, keeps = random.Random(number), number == 0
        connection: http.client.HTTPConnection | None = None
        while not self._ending.wait(self._pause_s):
            path = f"/recall/u{draw.randrange(USERS)}?k=20"
            begun = time.monotonic()
            cause, retried, body = "", 0, b""
            for _ in range(2):
                left_s = LIMIT_S - (time.monotonic() - begun)
                if left_s <= 0:
                    break
                try:
                    connection = connection or http.client.HTTPConnection("127.0.0.1", self._port, timeout=left_s)
                    cause, body = _ask(connection, path)
                except (OSError, http.client.HTTPException) as error:
                    cause, retried = f"{type(error).__name__}: {error}", retried + 1
                    _close(connection)
                    connection = None
                    time.sleep(RETRY_S)
                else:
                    break
            if not keeps:
                _close(connection)
                connection = None
            self._note(begun, cause, retried, body)
        _close(connection)

    def _note(self, begun: float, cause: str, retried: int, body: bytes) -> None:
        took_s = time.monotonic() - begun
        with self._lock:
            self.queries += 1
            self.slowest_s = max(self.slowest_s, took_s)
            if cause or took_s > LIMIT_S:
                self.failed += 1
                if len(self.failures) < KEPT:
                    self.failures.append((begun, cause or f"{took_s:.2f} s"))
                return
            self.retried += retried
            reason = json.loads(body)["degraded"]
            if reason:
                self.degraded += 1
                self.reasons[reason.split("(")[0].split(" since ")[0][:60]] += 1


def _ask(connection: http.client.HTTPConnection, path: str) -> tuple[str, bytes]:
    connection.request("GET", path)
    answer = connection.getresponse()
    body = answer.read()
    return ("" if answer.status == http.client.OK else f"status {answer.status}"), body


def _close(connection: http.client.HTTPConnection | None) -> None:
    if connection is not None:
        with contextlib.suppress(OSError):
            connection.close()
