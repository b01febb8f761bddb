"""A Kafka of a benchmark's own, gone when the benchmark ends."""

import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from contract.settings import Settings, load
from headrace import local_kafka, ports
from headrace.process import wait_until


@contextlib.contextmanager
def own_kafka(**overrides: object) -> Iterator[Settings]:
    """Settings of a broker that runs until the block ends, with `overrides` (dots as double underscores)."""
    with tempfile.TemporaryDirectory(prefix="headrace-bench-") as home:
        port = ports.free()
        command = local_kafka.command(Path(home) / "kafka", port, ports.free(taken=[port]))
        with (Path(home) / "kafka.log").open("wb") as log:
            leash = subprocess.Popen(
                [sys.executable, "-m", "headrace.leash", *command],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            if not wait_until(lambda: ports.answers(port), 60):
                raise RuntimeError((Path(home) / "kafka.log").read_text()[-1_000:])
            named = {name.replace("__", "."): value for name, value in overrides.items()}
            own = {"kafka.bootstrap_servers": f"127.0.0.1:{port}", "data_dir": Path(home) / "data"}
            yield load({**own, **named})
        finally:
            if leash.stdin is not None:
                leash.stdin.close()
            leash.wait(60)
