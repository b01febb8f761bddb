"""Reading the catalogue and the profiles at start."""

import threading

from contract.settings import Kafka, Settings
from tests.trainer.world import learner
from trainer.follow import Follower


def test_a_stop_ends_the_wait_for_a_kafka_that_is_away() -> None:
    """SIGTERM while the features cannot be read ends the start; nothing the state holds is forgotten."""
    away = Settings(kafka=Kafka(bootstrap_servers="127.0.0.1:1"))
    state, stop = learner().state, threading.Event()
    known = len(state.items), len(state.profiles)
    counts = {away.names.topic("catalogue"): 2, away.names.topic("profiles"): 2}
    follower = Follower(away, state, counts)
    threading.Timer(0.5, stop.set).start()
    try:
        assert not follower.start(stop)
    finally:
        follower.close()
    assert (len(state.items), len(state.profiles)) == known
