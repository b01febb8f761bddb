"""The whole loop on a day of the example: every command of the README, and events of today after those of 2022."""

import gzip
import json
import re
import shlex
import time
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path

import pytest

from contract.interchange import locate, merged, write
from contract.kafka import produce, producer
from contract.messages import Click, Exposure
from tests.conftest import SettingsFactory
from tests.end_to_end.stack import Stack, running

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "kuairand"
DAY_MS, FIRST_MS = 86_400_000, 1_650_812_741_436
USER, ITEMS = "26469", [str(item) for item in range(100, 1_300, 100)]


def write_day(directory: Path) -> None:
    """The first day of the example's events, and all of its items and users."""
    paths = locate(EXAMPLE)
    events = list(takewhile(lambda line: line.message.ts_ms < FIRST_MS + DAY_MS, merged(paths)))
    for topic in ("exposures", "clicks"):
        write(directory, topic, [line.message for line in events if line.topic == topic])
    for topic in ("items", "users"):
        (directory / paths[topic].name).write_bytes(paths[topic].read_bytes())


@pytest.fixture(scope="module")
def loop(module_settings: SettingsFactory, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """All roles, with the first day replayed, joined, learned and served."""
    home = tmp_path_factory.mktemp("loop")
    day = {"join.idle_timeout_ms": 3_000, "streams.commit_interval_ms": 100}
    gate = {"gate.min_samples": 1, "gate.tolerance": 1.0}  # one click after the border is enough
    write_day(home / "day")
    with running(module_settings(**day, **gate), home) as stack:
        done = stack.command("produce", "--dir", str(home / "day"), "--speed", "0")
        assert done.returncode == 0, done.stderr + stack.tail()
        stack.until("the day is learned", lambda: caught_up(stack), 120)
        yield stack


def caught_up(stack: Stack) -> bool:
    """No group lags, and there is a model of what was produced."""
    rows = json.loads(stack.command("lag", "--json").stdout)  # exits 1 while a role that starts stands still
    return sum(row["lag"] for row in rows) == 0 and stack.learned() > 0


def candidates(stack: Stack, user: str) -> list[str]:
    """Items that the server answers now."""
    return [one["item"] for one in stack.get(f"/recall/{user}?k=10")["candidates"]]


def readme_commands() -> list[str]:
    """Every command line of the README that calls headrace, continued lines joined."""
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    lines = "".join(blocks).splitlines()
    return [line.split(" #")[0].strip() for line in lines if line.startswith(".venv/bin/headrace")]


def test_a_day_goes_through(loop: Stack) -> None:
    """No dead letter, no lag, a sample for nearly every click, and better recall than chance."""
    found = loop.answer("status", "--json")
    assert (found["dead_letters"], found["lag"]) == (0, 0)
    assert 0.9 * found["clicks"] < found["samples"] <= found["clicks"]
    assert loop.learned() == found["samples"]
    assert found["recall_at_50"] > 2 * 50 / 7_583


def test_an_event_of_today_closes_the_windows_of_2022(loop: Stack) -> None:
    """One user's events of today: that partition's windows close, one full update runs, empty days are skipped.

    The other partitions keep their own time: an event of 2022 still becomes a sample there.
    """
    loop.until("quiet", lambda: caught_up(loop), 60)
    before = loop.answer("status", "--json")
    now_ms = time.time_ns() // 1_000_000
    loop.send([Exposure("today", USER, now_ms, ["100"]), Click(USER, "100", now_ms + 1, request_id="today")])
    idle_s = loop.settings.join.idle_timeout_ms / 1000

    def outcomes() -> int:
        return int(loop.answer("status", "--json")["outcomes"])

    assert loop.until("old windows closed", lambda: outcomes() > before["outcomes"], 60) < idle_s + 5
    loop.until("a full update", lambda: loop.answer("status", "--json")["full_updates"] > before["full_updates"], 60)
    old_ms = 1_650_899_000_000
    user = next(u for u in map(str, range(100)) if loop.partition_of(u) != loop.partition_of(USER))
    samples = int(loop.answer("status", "--json")["samples"])
    loop.send([Exposure("old", user, old_ms, ["7"]), Click(user, "7", old_ms + 1, request_id="old")])
    loop.until("2022 goes on", lambda: loop.answer("status", "--json")["samples"] > samples, 20)
    time.sleep(2)
    assert loop.answer("status", "--json")["full_updates"] == before["full_updates"] + 1


@pytest.mark.parametrize("line", [line for line in readme_commands() if " evaluate " not in line])
def test_the_readme_commands_run(line: str, loop: Stack, tmp_path: Path) -> None:
    """Each command of the README, as it stands there, exits with 0 and prints something."""
    (tmp_path / "my.jsonl").write_text('{"user_id":"u7","item_id":"9","ts_ms":1650812745120}\n')
    (tmp_path / "hour").mkdir()
    with gzip.open(tmp_path / "hour" / "clicks.jsonl.gz", "wb") as file:
        file.write(b'{"user_id":"u8","item_id":"9","ts_ms":1650812745120}\n')
    arguments = shlex.split(line)[1:]
    loop.until("quiet", lambda: caught_up(loop), 60)
    places = {"my.jsonl": str(tmp_path / "my.jsonl"), "my-log": str(tmp_path / "hour")}
    done = loop.command(*[places.get(word, word) for word in arguments], stdin="")
    assert done.returncode == 0, done.stderr + done.stdout
    assert done.stdout.strip()


def test_a_dozen_clicks_change_the_candidates(loop: Stack) -> None:
    """Clicks of now, with no exposure to match, are in the user's history and so in the next answer: within 5 s."""
    before, now_ms = candidates(loop, USER), time.time_ns() // 1_000_000
    loop.send(Click(USER, item, now_ms + n) for n, item in enumerate(ITEMS))
    took_s = loop.until("other candidates", lambda: candidates(loop, USER) != before, 15)
    assert took_s < 5
    assert not set(ITEMS) & set(candidates(loop, USER))


def test_garbage_is_one_dead_letter(loop: Stack) -> None:
    """What another client writes that is no event is buried once, and what follows it flows."""
    before = loop.answer("status", "--json")
    target = producer(loop.settings.kafka)
    produce(target, loop.settings.names.topic("clicks"), b"\xff\xfe not an event", b"key")
    assert target.flush(10) == 0
    now_ms = time.time_ns() // 1_000_000
    loop.send([Exposure("after", "flows", now_ms, ["7"]), Click("flows", "7", now_ms + 1, request_id="after")])
    loop.until("the click after it", lambda: loop.answer("status", "--json")["samples"] == before["samples"] + 1, 20)
    after = loop.answer("status", "--json")
    letters = [row for row in loop.lines("tail", "clicks.dlq", "--from-start", "-n", "1000") if "broken" in str(row)]
    assert len(letters) == 1
    assert after["clicks"] == before["clicks"] + 2
