"""`make faults`: `python -m tests.faults.run --runs N --seed S` breaks a stack of its own N times and audits it.

Every run is a stack of its own on a fresh Kafka and Redis. Faults are dealt from a shuffled deck of all kinds, so that
after enough runs each kind has come equally often; a seed gives the same hands. One line a run, a summary at the end;
exit 1 if anything was lost, doubled or torn, or a query failed.
"""

import argparse
import random
import signal
import statistics
import sys
import tempfile
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from headrace.process import wait_until
from tests.faults.bench import Bench, disk, running
from tests.faults.faults import FAULTS
from tests.faults.verdict import Verdict, judge

RECOVERED_S = 60.0
GAP_S = (0.3, 2.0)
LEAST_S = 20.0  # of traffic: the event day ends meanwhile


class Account(NamedTuple):
    """What one run came to."""

    seed: int
    faults: list[str]
    verdict: Verdict
    queries: int
    failed: int
    retried: int
    degraded: int
    kills: Counter[str]
    recoveries: list[tuple[str, float]]
    catch_ups: list[float]
    notes: Counter[str]
    problems: list[str]
    seconds: float

    @property
    def good(self) -> bool:
        """Nothing lost, nothing twice, nothing torn, no query failed."""
        v = self.verdict
        return not (v.lost or v.duplicated or v.torn or self.failed or self.problems)

    def line(self) -> str:
        """One line for people and for grep."""
        v = self.verdict
        slowest: dict[str, float] = {}
        for role, seconds in self.recoveries:
            slowest[role] = max(seconds, slowest.get(role, 0.0))
        parts = {
            "seed": self.seed,
            "faults": ",".join(self.faults),
            "events": v.events,
            "lost": v.lost,
            "duplicated": v.duplicated,
            "torn": v.torn,
            "queries": self.queries,
            "failed_queries": self.failed,
            "retried": self.retried,
            "degraded": self.degraded,
            "kills": self.kills.total(),
            "recovery_s": ",".join(f"{role}:{seconds:.1f}" for role, seconds in sorted(slowest.items())),
            "catch_up": ",".join(f"{times:.1f}x" for times in self.catch_ups) or "-",
            "settled_s": f"{v.settled_s:.1f}",
            "seconds": f"{self.seconds:.0f}",
        }
        return " ".join(f"{name}={value}" for name, value in parts.items())


def deal(seed: int, count: int, runs: int, kinds: Sequence[str]) -> list[list[str]]:
    """Faults of each run: hands of `count` from shuffled decks."""
    draw, deck, hands = random.Random(seed), list[str](), []
    for _ in range(runs):
        hand: list[str] = []
        while len(hand) < count:
            if not deck:
                deck = list(kinds)
                draw.shuffle(deck)
            hand.append(deck.pop())
        hands.append(hand)
    return hands


def inflict(bench: Bench, names: Sequence[str], least_s: float) -> list[str]:
    """Faults one after another under `least_s` of traffic at least; what did not recover."""
    streaming = time.monotonic()
    for name in names:
        bench.pause(*GAP_S)
        FAULTS[name](bench)
    wait_until(lambda: not bench.recoveries.open(), RECOVERED_S)
    time.sleep(max(1.0, least_s - (time.monotonic() - streaming)))
    bench.feeder.stop()
    return [f"not recovered: {waiting.role}" for waiting in bench.recoveries.waiting()]


def run_once(home: Path, seed: int, names: Sequence[str], rate: float) -> Account:
    """One stack, its faults one after another, and the audit."""
    begun = time.monotonic()
    with disk(home / "files") as files, running(home, seed, rate, is_tmpfs=files.is_tmpfs) as bench:
        streaming = time.monotonic()
        problems = inflict(bench, names, LEAST_S)
        verdict = judge(bench)
        prober = bench.prober
        prober.stop()
        problems += bench.fleet.broken + bench.feeder.failed[:3]
        problems += [f"query: {cause} at {at - streaming:.1f} s" for at, cause in prober.failures]
        return Account(
            seed,
            list(names),
            verdict,
            prober.queries,
            prober.failed,
            prober.retried,
            prober.degraded,
            bench.fleet.kills,
            bench.recoveries.seconds,
            bench.catch_ups,
            bench.notes + prober.reasons,
            problems,
            time.monotonic() - begun,
        )


def summary(accounts: Sequence[Account]) -> list[str]:
    """Totals, and the median and worst recovery of each role."""
    kills, faults, notes = Counter[str](), Counter[str](), Counter[str]()
    by_role: dict[str, list[float]] = defaultdict(list)
    for one in accounts:
        kills += one.kills
        faults.update(one.faults)
        notes += one.notes
        for role, seconds in one.recoveries:
            by_role[role].append(seconds)
    told = {
        "runs": len(accounts),
        "events": sum(a.verdict.events for a in accounts),
        "lost": sum(a.verdict.lost for a in accounts),
        "duplicated": sum(a.verdict.duplicated for a in accounts),
        "torn": sum(a.verdict.torn for a in accounts),
        "queries": sum(a.queries for a in accounts),
        "failed_queries": sum(a.failed for a in accounts),
        "retried": sum(a.retried for a in accounts),
        "degraded": sum(a.degraded for a in accounts),
        "kills": kills.total(),
    }
    lines = [" ".join(f"{name}={value}" for name, value in told.items())]
    lines.append("kills: " + ", ".join(f"{role} {n}" for role, n in sorted(kills.items())))
    lines.append("faults: " + ", ".join(f"{name} {n}" for name, n in sorted(faults.items())))
    lines.append("notes: " + ", ".join(f"{text} {n}" for text, n in sorted(notes.items())))
    lines += [
        f"recovery {role}: median {statistics.median(s):.1f} s, worst {max(s):.1f} s, {len(s)} times"
        for role, s in sorted(by_role.items())
    ]
    if found := [times for one in accounts for times in one.catch_ups]:
        lines.append(
            f"catch-up after an absence of the broker: median {statistics.median(found):.1f}, least {min(found):.1f} "
            f"times the live rate, {len(found)} times"
        )
    return lines


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="of the first run; the next has the next")
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--rate", type=float, default=2_000, help="events per second")
    parser.add_argument("--faults", type=int, default=5, help="of one run")
    parser.add_argument("--only", nargs="*", default=[], choices=sorted(FAULTS), help="deal these alone")
    parser.add_argument("--but", nargs="*", default=[], choices=sorted(FAULTS), help="deal all but these")
    parser.add_argument("--keep", type=Path, help="keep the runs' logs in this directory")
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # unmount and stop everything on the way out
    kinds = [kind for kind in asked.only or FAULTS if kind not in asked.but]
    accounts: list[Account] = []
    crashed = 0
    for number, hand in enumerate(deal(asked.seed, asked.faults, asked.runs, kinds)):
        seed = asked.seed + number
        with tempfile.TemporaryDirectory(prefix="headrace-faults-") as temporary:
            home = Path(temporary) if asked.keep is None else asked.keep / f"seed-{seed}"
            try:
                account = run_once(home, seed, hand, asked.rate)
            except Exception:  # noqa: BLE001  (a run that cannot be judged is a finding; the others go on)
                crashed += 1
                _say(f"seed={seed} faults={','.join(hand)} not judged:\n{traceback.format_exc()}")
                continue
        accounts.append(account)
        _say(account.line())
        for text in (*account.problems, *account.verdict.examples):
            _say(f"    {text}")
    if accounts:
        _say("\n".join(summary(accounts)))
    return 0 if accounts and not crashed and all(account.good for account in accounts) else 1


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
