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
