"""Settings: order, bounds, contradictions, secrets."""

import pytest

from contract.errors import SettingsError
from contract.redis_url import masked
from contract.settings import environment_of, load


def test_flags_beat_environment_beats_stack_beats_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    """Defaults < the recorded stack < HEADRACE_ environment < flags, also inside one group."""
    monkeypatch.setenv("HEADRACE_JOIN__WINDOW_MS", "2000000")
    stack = {"join.window_ms": 1, "kafka.bootstrap_servers": "127.0.0.1:1", "server.port": 9001}
    settings = load({"server.port": 9002}, stack)
    assert settings.join.window_ms == 2_000_000
    assert settings.join.lateness_ms == 300_000
    assert settings.kafka.bootstrap_servers == "127.0.0.1:1"
    assert settings.server.port == 9002
    assert settings.server.k_max == 1_000


def test_every_bad_value_and_contradiction_is_named_at_once() -> None:
    """One error lists all that is wrong; nothing is silently corrected."""
    with pytest.raises(SettingsError) as bad:
        load({"join.window_ms": 0, "train.batch": "many", "nonsense": 1, "full.time_zone": "Mars/Olympus"})
    for word in ("join.window_ms", "train.batch", "nonsense", "Mars/Olympus"):
        assert word in str(bad.value)
    with pytest.raises(SettingsError) as contrary:
        load({"join.max_skew_ms": 200_000, "kafka.security_protocol": "SASL_SSL", "streams.port": 8000})
    for word in ("max_skew_ms", "sasl_mechanism", "must differ"):
        assert word in str(contrary.value)


def test_an_unknown_environment_setting_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A misspelt variable is an error, not a default."""
    monkeypatch.setenv("HEADRACE_BOOTSTRAP", "x")
    with pytest.raises(SettingsError, match="HEADRACE_BOOTSTRAP"):
        load()


def test_an_environment_value_that_is_no_json_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A list that does not parse is one clear line, too."""
    monkeypatch.setenv("HEADRACE_MODEL__HISTORY_DECAYS", "[0.5")
    with pytest.raises(SettingsError, match="JSON is wanted"):
        load()


def test_settings_travel_to_another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """`environment_of` makes a child load the very same settings, secrets and lists included."""
    lists = {"model.history_decays": [0.5], "full.self_transforms": ["dropout"]}
    made = load({"redis.url": "redis://:s3cret@h:1/0", "redis.cluster": True, **lists})
    for name, value in environment_of(made).items():
        monkeypatch.setenv(name, value)
    assert load() == made


def test_slots_end_where_ports_end() -> None:
    """Slot n of streams listens on streams.port + 100 n; past the last port one line says how far slots go."""
    streams = load({"streams.port": 6066}).streams
    assert [streams.port_of(0), streams.port_of(3), streams.port_of(594)] == [6066, 6366, 65466]
    with pytest.raises(SettingsError, match=r"slot 595 .* 65566 .* at most 594"):
        streams.port_of(595)


@pytest.mark.parametrize("name", ["server.host", "pages_host"])
def test_an_empty_host_is_refused(name: str) -> None:
    """An empty address would listen everywhere; that is asked for by its name, 0.0.0.0."""
    with pytest.raises(SettingsError, match=name):
        load({name: ""})


def test_secrets_never_show() -> None:
    """Neither repr nor error texts nor masked URLs show a password."""
    settings = load({"redis.url": "redis://u:s3cret@h:1/0", "kafka.sasl_password": "s3cret"})
    assert "s3cret" not in repr(settings)
    assert masked("redis://u:s3cret@h:1/0") == "redis://u:***@h:1/0"
    assert masked("redis://h:1/0?password=s3cret&protocol=3") == "redis://h:1/0?password=***&protocol=***"
    assert masked("redis://h:1/0") == "redis://h:1/0"
    assert masked("redis://:s3cret/0") == "***"
    for name in ("redis.url", "redis", "kafka", "redis.pasword", "kafka.sasl_pasword"):
        with pytest.raises(SettingsError) as bad:
            load({name: "ftp://u:s3cret@h"})
        assert "s3cret" not in str(bad.value)


def test_a_group_and_a_setting_within_it_exclude_each_other() -> None:
    """kafka=1 beside kafka.partitions=3 is named, in either order."""
    for flags in ({"kafka": "1", "kafka.partitions": "3"}, {"kafka.partitions": "3", "kafka": "1"}):
        with pytest.raises(SettingsError, match="kafka"):
            load(flags)


@pytest.mark.parametrize("url", ["redis://:s3cret@h:99999/0", "redis://:s3cret/0", "redis://[s3cret"])
def test_a_bad_port_or_host_in_the_url_of_redis_is_named(url: str) -> None:
    """A URL that does not parse is a bad setting, told without a word of it."""
    with pytest.raises(SettingsError, match=r"redis\.url") as bad:
        load({"redis.url": url})
    assert "s3cret" not in str(bad.value)
