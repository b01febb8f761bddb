"""What a role's log holds."""

import subprocess
import sys

SAYS = """
import logging
from contract import log
log.set_up("streams")
library = logging.getLogger("aiokafka.conn")
for _ in range(50):
    library.error("Unable to connect")
library.info("not worth a line")
try:
    raise ValueError("in an agent")
except ValueError:
    library.exception("crashed")
log.SELDOM_S = 0
for _ in range(2):
    library.error("Unable to connect")
log.get().info("applied", version=42)
"""


def test_libraries_speak_seldom_and_in_our_form() -> None:
    """A library that says the same all the time has a line in ten seconds; every line is logfmt, a traceback too."""
    found = subprocess.run([sys.executable, "-c", SAYS], capture_output=True, text=True, check=True)
    lines = found.stderr.splitlines()
    assert all(line.startswith("ts=") and " role=streams " in line for line in lines)
    assert [line.split(" event=")[1].split(" by=")[0] for line in lines] == [
        '"Unable to connect"',
        "crashed",
        '"Unable to connect"',
        '"Unable to connect"',
        "applied version=42",
    ]
    assert "ValueError: in an agent" in lines[1]


LISTENS = """
import time
from contract import kafka, log
from contract.settings import load
log.set_up("server")
settings = load({"kafka.bootstrap_servers": "127.0.0.1:1"})
clients = kafka.producer(settings.kafka), kafka.consumer(settings.kafka, "nobody")
clients[1].subscribe(["clicks"])
until = time.monotonic() + 3
while time.monotonic() < until:
    clients[0].poll(0.1)
    clients[1].consume(1, 0.1)
"""


def test_librdkafka_speaks_like_any_library() -> None:
    """While no broker answers, its clients write a line each in ten seconds, as logfmt, and nothing of their own."""
    found = subprocess.run([sys.executable, "-c", LISTENS], capture_output=True, text=True, check=True)
    lines = found.stderr.splitlines()
    assert len(lines) == 2, found.stderr
    for line in lines:
        assert line.startswith("ts=")
        assert " role=server " in line
        assert "Connection refused" in line
        assert " by=librdkafka" in line
