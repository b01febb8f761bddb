"""Settings: defaults < the local stack that `headrace up` recorded < HEADRACE_... environment < flags.

Every field has a unit in its name where it has one, a bound, and one line of help. Edges unpack settings; cores take
plain arguments. Nested names are joined by a dot in flags (`--set join.window_ms=60000`) and by two underscores in the
environment (`HEADRACE_JOIN__WINDOW_MS=60000`). Contradictions are refused at start, all at once.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from zoneinfo import available_timezones

import pydantic_settings
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from contract import redis_url
from contract.dotted import nested, sentence
from contract.errors import SettingsError
from contract.topics import Names

LAST_PORT = 65_535
SLOT_PORTS = 100
Port = Annotated[int, Field(ge=1, le=LAST_PORT)]
NAME = r"^[a-z0-9]([a-z0-9_-]{0,62}[a-z0-9])?$"


class _Group(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Kafka(_Group):
    """How to reach Kafka; the rest passes through to librdkafka."""

    bootstrap_servers: str = Field("127.0.0.1:9092", min_length=1, description="host:port, comma separated")
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", description="as in any Kafka client"
    )
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = Field(
        None, description="SASL mechanism"
    )
    sasl_username: str | None = Field(None, description="SASL user")
    sasl_password: SecretStr | None = Field(None, description="SASL password; never printed")
    ssl_ca_location: Path | None = Field(None, description="file with the CA certificates")
    ssl_certificate_location: Path | None = Field(None, description="client certificate, PEM")
    ssl_key_location: Path | None = Field(None, description="client key, PEM")
    ssl_key_password: SecretStr | None = Field(None, description="password of the client key; never printed")
    partitions: int = Field(4, ge=1, le=1_000, description="partitions of topics that headrace creates")
    replication_factor: int = Field(1, ge=1, le=9, description="replicas of topics that headrace creates")
    reach_timeout_ms: int = Field(
        3_500, ge=100, le=60_000, description="how long to look for a broker before saying so"
    )


class Redis(_Group):
    """How to reach Redis (or Valkey)."""

    url: SecretStr = Field(
        SecretStr("redis://127.0.0.1:6379/0"),
        description="redis:// or rediss:// (TLS) with user and password; masked when printed",
    )
    ca_location: Path | None = Field(None, description="file with the CA certificates for rediss://")
    cluster: bool = Field(False, description="the URL names a node of a Redis Cluster")  # noqa: FBT003
    timeout_ms: int = Field(2_000, ge=50, le=60_000, description="socket timeout of one call")


class Join(_Group):
    """The join's rules (JOIN.md), in event time unless said otherwise."""

    mode: Literal["exposures", "clicks-only"] = Field(
        "exposures", description="clicks-only: every click is a sample at once (news, ratings)"
    )
    window_ms: int = Field(
        1_800_000, ge=1, le=7 * 86_400_000, description="a click matches an exposure at most this much older"
    )
    lateness_ms: int = Field(300_000, ge=0, le=86_400_000, description="how far out of order a partition may be")
    max_skew_ms: int = Field(120_000, ge=0, le=43_200_000, description="how far ahead of its arrival an event may be")
    idle_timeout_ms: int = Field(
        10_000, ge=100, le=3_600_000, description="wall time after which a silent input holds nobody up"
    )
    max_ahead_ms: int = Field(
        600_000, ge=0, le=86_400_000, description="catching up: pause the input this much ahead of the other"
    )


class History(_Group):
    """What a user's history holds."""

    length: int = Field(20, ge=1, le=200, description="clicks of a sample's history (L); the ring keeps 4 L")
    shown_exposures: int = Field(20, ge=0, le=200, description="last exposures kept for exclude_seen=shown")


class PopularityCounts(_Group):
    """Counts of the `popularity` topic."""

    half_life_ms: int = Field(86_400_000, ge=1_000, description="half-life of decayed counts, event time")


class Streams(_Group):
    """The streams role."""

    port: Port = Field(6066, description="web port: /healthz /metrics /lag; slot n listens on this + 100 n")
    batch_records: int = Field(5_000, ge=1, le=100_000, description="records taken from Kafka at once")
    commit_interval_ms: int = Field(250, ge=10, le=10_000, description="wall time between transactions")
    transaction_timeout_ms: int = Field(
        10_000, ge=1_000, le=900_000, description="the broker aborts a transaction older than this"
    )
    session_timeout_ms: int = Field(10_000, ge=6_000, le=1_800_000, description="group session time-out")

    def port_of(self, slot: int) -> int:
        """Port of a slot's pages (the ports in between are the other roles'); SettingsError past the last one."""
        port = self.port + SLOT_PORTS * slot
        if port > LAST_PORT:
            most = (LAST_PORT - self.port) // SLOT_PORTS
            raise SettingsError(
                f"slot {slot} would serve its pages on port {port} (streams.port + {SLOT_PORTS} * slot), and ports end "
                f"at {LAST_PORT}: --slot may be at most {most}, or lower --set streams.port={self.port}"
            )
        return port


class Model(_Group):
    """Shape of the two towers and of the score."""

    dim: int = Field(32, ge=4, le=512, description="width of rows and vectors (D)")
    hidden: int = Field(0, ge=0, le=1_024, description="width of a hidden layer beside the linear one; 0: none")
    temperature: float = Field(0.2, gt=0, le=10, description="tau: the softmax sees cos / tau")
    history_decays: list[Annotated[float, Field(gt=0, le=1)]] = Field(
        [0.6, 0.9], min_length=1, max_length=4, description="weight of the k-th newest click is decay ** k, a bag each"
    )
    correction: Literal["prior", "logq", "none"] = Field(
        "prior",
        description="prior: cos/tau + beta log(count + epsilon) served; logq: cos/tau - log q in the loss, cosine served",
    )
    prior_weight: float = Field(1.0, ge=0, le=10, description="beta")
    prior_epsilon: float = Field(0.5, gt=0, le=1_000, description="epsilon")
    prior_half_life_clicks: float = Field(
        5_000,
        ge=1,
        description="half-life of the prior's counts, in clicks; of several, the one that weighs most at first",
    )
    prior_half_lives: list[Annotated[float, Field(ge=1)]] = Field(
        [250, 1_000, 5_000, 20_000, 100_000],
        max_length=16,
        description="half-lives, in clicks, whose betas are learned; []: one half-life and the fixed prior_weight",
    )
    prior_rate: float = Field(0.03, ge=0, le=10, description="learning rate of the half-lives' weights")


class Train(_Group):
    """Incremental training."""

    port: Port = Field(6067, description="web port: /healthz /metrics")
    batch: int = Field(256, ge=2, le=65_536, description="samples of one step (B)")
    max_wait_ms: int = Field(1_000, ge=10, description="wall time after which a partial batch is learned")
    learning_rate: float = Field(0.1, gt=0, le=10, description="row-wise Adagrad, full update")
    incremental_rate: float = Field(2.0, ge=0, le=10, description="factor on the learning rate between full updates")
    user_rate: float = Field(0.05, ge=0, le=10, description="factor on the learning rate for user-ID rows")
    negatives: int = Field(
        64, ge=0, le=65_536, description="drawn negatives of one step, p proportional to clicks^0.75"
    )
    hard_share: float = Field(
        0.5, ge=0, le=1, description="share of the negatives taken from ranking-drops, where there are any"
    )
    hot_item_keep_clicks: float = Field(
        0, ge=0, description="items with more decayed clicks keep a sample with p = sqrt(this / clicks); 0: keep all"
    )
    seed: int = Field(1, ge=0, description="seed of every random draw")
    threads: int = Field(1, ge=1, le=64, description="torch threads; one gives the same bits on every machine size")
    checkpoint_interval_ms: int = Field(10_000, ge=100, description="wall time between checkpoints while samples come")
    max_user_rows: int = Field(5_000_000, ge=1, description="user-ID rows kept; the longest unseen go first")
    max_item_rows: int = Field(2_000_000, ge=1, description="item-ID rows kept; the longest unseen go first")
    max_token_rows: int = Field(
        200_000,
        ge=1,
        description="rows of each feature-token table; tokens past that stay unknown, as does text past 1.2 MB",
    )


class Full(_Group):
    """The full update at each day border."""

    time_zone: str = Field("UTC", description="zone of the day border, an IANA name")
    min_samples: int = Field(500, ge=1, description="days with fewer samples are merged into the next")
    cutover_deadline_ms: int = Field(
        3_600_000, ge=0, description="event time the incremental side runs on before it waits for the full update"
    )
    layer_rate: float = Field(0.01, gt=0, le=10, description="learning rate of the towers' layers in a full update")
    self_weight: float = Field(
        0.0, ge=0, le=10, description="alpha: weight of the item tower's self-supervised loss in a full update; 0: none"
    )
    self_items: int = Field(256, ge=2, le=65_536, description="items of one step of the self-supervised loss (m)")
    self_transforms: list[Literal["mask", "dropout", "complementary", "correlated"]] = Field(
        ["mask", "dropout", "complementary", "correlated"],
        min_length=1,
        description="feature transforms that its two views are drawn from",
    )

    @field_validator("time_zone")
    @classmethod
    def _known_zone(cls, value: str) -> str:
        if value not in available_timezones():
            raise ValueError(f"an IANA time zone such as Europe/Berlin is wanted, got {value!r}")
        return value


class Gate(_Group):
    """What a full update, and every delta, must pass to be served."""

    min_samples: int = Field(
        2_000, ge=1, description="samples that a candidate and the served model both score before the gate decides"
    )
    tolerance: float = Field(
        0.02, ge=0, le=1, description="how much less recall_at_50 a candidate may have, as a share of all samples"
    )
    item_share: float = Field(
        0.3, gt=0, le=1, description="a day of which one item has more samples than this is refused: a click flood"
    )
    drop: float = Field(
        0.5, gt=0, le=1, description="deltas stop when recall_at_50 falls by this share of itself; 1: never"
    )


class Publish(_Group):
    """What the trainer publishes and when."""

    interval_ms: int = Field(60_000, ge=1_000, description="event time between deltas (sync interval)")
    max_wait_ms: int = Field(2_000, ge=1_000, description="wall time from the first unpublished row to its delta")
    snapshot_deltas: int = Field(500, ge=1, le=100_000, description="deltas after which a new snapshot replaces them")
    chunk_bytes: int = Field(512_000, ge=1_024, le=900_000, description="payload of one message on updates")
    keep_versions: int = Field(3, ge=2, le=100, description="versions kept on updates, in Redis and on disk")


class Publisher(_Group):
    """The publisher role."""

    port: Port = Field(6068, description="web port: /healthz /metrics")
    exact_max_items: int = Field(200_000, ge=1, description="above this many items the index is IVF, approximate")
    overlay_max_items: int = Field(
        20_000, ge=1, description="item vectors in the overlay before the index is built anew"
    )


class Server(_Group):
    """The recall server."""

    host: str = Field("127.0.0.1", min_length=1, description="address to listen on; 0.0.0.0: every one")
    port: Port = Field(8000, description="port to listen on")
    k_max: int = Field(1_000, ge=1, le=100_000, description="largest k of one request")
    degraded_after_ms: int = Field(60_000, ge=1_000, description="publisher silence after which answers say so")


class Settings(BaseSettings):
    """All settings of all roles."""

    model_config = SettingsConfigDict(
        env_prefix="HEADRACE_",
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        nested_model_default_partial_update=True,
    )

    namespace: str = Field(
        "live", pattern=NAME, description="name of everything derived: topics, groups, Redis keys, files"
    )
    topic_prefix: str = Field(
        "",
        pattern=r"^([a-z0-9][a-z0-9._-]*)?$",
        max_length=100,
        description="put before every topic, group and key, for a shared cluster",
    )
    data_dir: Path = Field(Path(".headrace"), description="where local state, logs, checkpoints and index files live")
    pages_host: str = Field(
        "127.0.0.1", min_length=1, description="address that the pages of streams, trainer and publisher listen on"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="least severe line logged")
    kafka: Kafka = Kafka()
    redis: Redis = Redis()
    join: Join = Join()
    history: History = History()
    popularity: PopularityCounts = PopularityCounts()
    streams: Streams = Streams()
    model: Model = Model()
    train: Train = Train()
    full: Full = Full()
    gate: Gate = Gate()
    publish: Publish = Publish()
    publisher: Publisher = Publisher()
    server: Server = Server()

    @property
    def names(self) -> Names:
        """Physical names under this prefix and namespace."""
        return Names(self.topic_prefix, self.namespace)

    @property
    def files(self) -> Path:
        """Directory of this namespace's checkpoints and index files."""
        return self.data_dir / "namespaces" / f"{self.topic_prefix}{self.namespace}"


def contradictions(settings: Settings) -> list[str]:
    """Every pair of settings that cannot both hold, one sentence each."""
    found = []
    join, kafka = settings.join, settings.kafka
    if join.max_skew_ms > join.lateness_ms / 2:
        found.append(
            f"join.max_skew_ms ({join.max_skew_ms}) must be at most half of join.lateness_ms ({join.lateness_ms}), "
            "or one fast clock makes live traffic late"
        )
    if kafka.security_protocol.startswith("SASL") and not (
        kafka.sasl_mechanism and kafka.sasl_username and kafka.sasl_password
    ):
        found.append(
            f"kafka.security_protocol {kafka.security_protocol} needs kafka.sasl_mechanism, sasl_username, sasl_password"
        )
    if bool(kafka.ssl_certificate_location) != bool(kafka.ssl_key_location):
        found.append("kafka.ssl_certificate_location and kafka.ssl_key_location go together")
    if settings.streams.commit_interval_ms * 4 > settings.streams.transaction_timeout_ms:
        found.append("streams.transaction_timeout_ms must be at least four times streams.commit_interval_ms")
    ports = [settings.streams.port, settings.train.port, settings.publisher.port, settings.server.port]
    if len(set(ports)) < len(ports):
        found.append(f"streams.port, train.port, publisher.port and server.port must differ, got {ports}")
    if fault := redis_url.fault(settings.redis.url.get_secret_value()):
        found.append(f"redis.url {fault}")
    return found


def load(flags: Mapping[str, Any] | None = None, stack: Mapping[str, Any] | None = None) -> Settings:
    """Settings from defaults < `stack` < environment < `flags` (both with dotted names).

    Raises SettingsError naming every bad value and contradiction at once.
    """
    _unknown_environment()
    environment = {f"HEADRACE_{k.upper().replace('.', '__')}": str(v) for k, v in (stack or {}).items()}
    added = {k: v for k, v in environment.items() if k not in os.environ}
    os.environ.update(added)  # pydantic-settings reads the stack's record as the weakest environment
    try:
        settings = Settings(**nested(flags or {}))
    except ValidationError as error:
        raise SettingsError("; ".join(sentence(e) for e in error.errors())) from None
    except pydantic_settings.SettingsError as error:
        raise SettingsError(f"{error}: JSON is wanted there") from None
    finally:
        for name in added:
            del os.environ[name]
    if found := contradictions(settings):
        raise SettingsError("; ".join(found))
    return settings


def environment_of(settings: Settings) -> dict[str, str]:
    """Environment variables that make another process of ours load the same settings."""
    flat: dict[str, str] = {}
    for name, value in settings:
        if isinstance(value, BaseModel):
            for key, inner in value:
                if inner is not None:
                    flat[f"HEADRACE_{name}__{key}".upper()] = _text(inner)
        else:
            flat[f"HEADRACE_{name}".upper()] = _text(value)
    return flat


def _text(value: Any) -> str:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, bool | list | tuple | dict):
        return json.dumps(value)  # pydantic-settings reads JSON
    return str(value)


def _unknown_environment() -> None:
    known = {f"HEADRACE_{name}".upper() for name in Settings.model_fields}
    groups = tuple(f"{name}__" for name in known)
    unknown = sorted(n for n in os.environ if n.startswith("HEADRACE_") and n not in known and not n.startswith(groups))
    if unknown:
        raise SettingsError(
            f"unknown environment setting {', '.join(unknown)}; `headrace topics --settings` lists them all"
        )
