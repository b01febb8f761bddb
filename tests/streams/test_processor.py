"""The transactional loop on a real Kafka."""

from contract import kafka
from tests.conftest import SettingsFactory
from tests.streams.evidence import SHORT, caught_up, same_as_offline, send, stream, wait, worker


def test_everything_written_is_what_an_offline_join_gives(settings: SettingsFactory) -> None:
    """Samples, outcomes, dead letters, histories and counts equal the offline join, each once; lag 0 at the end."""
    made = settings(**SHORT)
    kafka.create_topics(made)
    send(made, stream(2_000))
    with worker(made):
        wait(lambda: caught_up(made))
        send(made, stream(500, seed=2, start_ms=1_700_001_200_000))
        wait(lambda: caught_up(made))
    counts = same_as_offline(made)
    assert counts["samples"] > 300
    assert counts["outcomes"] > 800
    assert counts["dead_letters"] > 50
