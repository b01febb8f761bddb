"""Topics, groups and start checks of the streams role, and its exact totals from the committed metadata."""

from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType

from contract import kafka, log
from contract.errors import RefusedError
from contract.settings import Settings
from streams.join import totals_of


def joined_inputs(settings: Settings) -> tuple[str, ...]:
    """Raw topics that the join reads."""
    return ("clicks",) if settings.join.mode == "clicks-only" else ("exposures", "clicks")


def prepare(settings: Settings) -> int:
    """Create what is missing, check what is there; give back the inputs' partition count.

    Raises RefusedError with the way out: partition counts that differ (create_topics), or a raw topic that forgets
    events while the join may still need to read them again.
    """
    kafka.create_topics(settings)
    client = kafka.reach(settings.kafka)
    wanted_ms = settings.join.window_ms + 2 * settings.join.lateness_ms
    found = []
    for source in joined_inputs(settings):
        topic = settings.names.topic(source)
        config = _config(client, topic)
        kept_ms = int(config["retention.ms"])
        if "delete" in config["cleanup.policy"] and 0 <= kept_ms < wanted_ms:
            found.append(
                f"{topic} keeps events for {kept_ms} ms and join.window_ms + 2 * join.lateness_ms is {wanted_ms}: set "
                f"its retention.ms to at least that (kafka-configs.sh --alter --topic {topic} --add-config "
                f"retention.ms={wanted_ms}), or make the window smaller"
            )
        if "compact" in config["cleanup.policy"]:
            found.append(f"{topic} is compacted, and events of one user would vanish: set cleanup.policy=delete")
        if config["message.timestamp.type"] != "LogAppendTime":
            log.get().info("arrival is the producer's timestamp", topic=topic, timestamp_type="CreateTime")
    if found:
        raise RefusedError("; ".join(found))
    return kafka.partition_counts(client)[settings.names.topic("clicks")]


def committed(settings: Settings, sources: tuple[str, ...]) -> dict[tuple[str, int], TopicPartition]:
    """Committed offset and metadata of the streams group by logical topic and partition; offset -1001: none."""
    counts = kafka.partition_counts(kafka.reach(settings.kafka))
    names = settings.names
    by_topic = {names.topic(source): source for source in sources}
    asked = [TopicPartition(topic, p) for topic in by_topic for p in range(counts.get(topic, 0))]
    found = kafka.committed(settings.kafka, names.group("streams"), asked)
    return {(by_topic[at.topic], at.partition): at for at in found}


def totals(settings: Settings) -> dict[str, int]:
    """Exact totals of the namespace as of the last commits: exposures, clicks, samples, outcomes, dead_letters, ...

    Empty before the first commit. Raises UnreachableError when Kafka does not answer.
    """
    source = joined_inputs(settings)[0]  # the one whose metadata carries them
    summed: dict[str, int] = {}
    for at in committed(settings, (source,)).values():
        for name, count in (totals_of(at.metadata) if at.metadata else {}).items():
            summed[name] = summed.get(name, 0) + count
    return summed


def _config(client: AdminClient, topic: str) -> dict[str, str]:
    resource = ConfigResource(ResourceType.TOPIC, topic)
    entries = client.describe_configs([resource])[resource].result(10)
    return {name: entry.value for name, entry in entries.items()}
