"""Apache Kafka's jars: fetched once per user through jgo, checked against pinned hashes, shared by all clones.

They are fetched into a directory of their own and renamed when complete, so that an interrupted download leaves
nothing half done (jgo itself would take a truncated jar for a whole one the next time).
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path

from contract.errors import BadInputError, DataLossError

VERSION = "4.4.0"
# kafka-clients is named on purpose: left to itself, mediation picks an older one.
COORDINATES = (
    f"org.apache.kafka:kafka_2.13:{VERSION}+org.apache.kafka:kafka-clients:{VERSION}+org.slf4j:slf4j-simple:1.7.36"
)
TOTAL_BYTES = 45_700_000
OTHER_WAYS = (
    "other ways: name a Kafka and a Redis of your own with --bootstrap-server HOST:PORT "
    "--redis-url redis://HOST:PORT/0, or run `docker compose up`"
)
Progress = Callable[[int], None]


def cache_directory() -> Path:
    """Directory shared by all clones of this user."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "headrace"


def classpath(progress: Progress | None = None) -> str:
    """Java class path of Kafka; fetches the jars if this user does not have them yet.

    `progress` is told the bytes so far. Raises BadInputError naming the other ways when they cannot be fetched.
    """
    home = cache_directory() / f"kafka-{VERSION}"
    pins = _pins()
    if not _complete(home, pins):
        with _locked(home.with_suffix(".lock")):
            if not _complete(home, pins):  # somebody else may have fetched them while we waited
                _fetch(home, pins, progress)
    return os.pathsep.join(str(home / name) for name in sorted(pins))


def are_here() -> bool:
    """Whether the jars need no download."""
    return _complete(cache_directory() / f"kafka-{VERSION}", _pins())


def _pins() -> dict[str, str]:
    text = resources.files("headrace").joinpath("kafka_jars.sha256").read_text()
    return {name: digest for digest, name in (line.split() for line in text.splitlines())}


def _complete(home: Path, pins: dict[str, str]) -> bool:
    return home.is_dir() and {p.name for p in home.iterdir()} >= set(pins)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _fetch(home: Path, pins: dict[str, str], progress: Progress | None) -> None:
    with tempfile.TemporaryDirectory(prefix=f"kafka-{VERSION}.", dir=home.parent) as scratch:
        found = {jar.name: jar for jar in _download(Path(scratch), progress)}
        whole = Path(scratch) / "whole"
        whole.mkdir()
        for name, digest in pins.items():
            if name not in found:
                raise DataLossError(f"Kafka {VERSION} came without {name}: remove {home.parent} and try again")
            if hashlib.sha256(found[name].read_bytes()).hexdigest() != digest:
                raise DataLossError(f"{name} is not the file that headrace pinned (sha256 differs); nothing was kept")
            shutil.move(found[name], whole / name)
        if home.exists():  # an older, incomplete one
            shutil.rmtree(home)
        whole.rename(home)


def _download(scratch: Path, progress: Progress | None) -> list[Path]:
    import jgo  # noqa: PLC0415  (only where a local Kafka is started)
    from jgo.maven import PythonResolver  # noqa: PLC0415

    done = 0

    @contextlib.contextmanager
    def count(_name: str, _size: int) -> Iterator[Progress]:
        def add(received: int) -> None:
            nonlocal done
            done += received
            if progress:
                progress(done)

        yield add

    before = os.environ.get("M2_REPO")
    os.environ["M2_REPO"] = str(scratch / "m2")
    try:
        resolver = PythonResolver(progress_callback=count)
        return list(jgo.build(COORDINATES, cache_dir=scratch / "jgo", resolver=resolver).all_jars)
    except Exception as error:
        raise BadInputError(
            f"Apache Kafka {VERSION} (44 MB of jars) could not be fetched from Maven Central ({type(error).__name__}); "
            f"{OTHER_WAYS}"
        ) from error
    finally:
        os.environ.pop("M2_REPO") if before is None else os.environ.update(M2_REPO=before)
