"""Names of everything derived carry the namespace."""

from contract.topics import BY_NAME, RAW_INPUTS, TOPICS, Names


def test_derived_names_carry_the_namespace_and_raw_ones_do_not() -> None:
    """Two namespaces share the raw topics and `control`, and nothing else."""
    live, again = Names("p.", "live"), Names("p.", "again")
    shared = {topic.name for topic in TOPICS if live.topic(topic.name) == again.topic(topic.name)}
    assert shared == {*RAW_INPUTS, "control"}
    assert live.topic("clicks.dlq") == "p.live.clicks.dlq"
    assert live.group("streams") != again.group("streams")
    assert live.key("user", 3) == "headrace:p.live:user:3"


def test_every_raw_input_has_a_dead_letter_topic() -> None:
    """What is refused has a place to go."""
    assert {f"{name}.dlq" for name in RAW_INPUTS} <= BY_NAME.keys()
