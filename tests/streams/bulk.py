"""Many random joins, seeded, with a shrinker: `python -m tests.streams.bulk SECONDS [SEED]`.

Rare cases need tens of thousands of logs; run it whenever a rule of the join or its state changes. Prints one line with
what was covered, or the smallest failing case found.
"""

import dataclasses
import random
import sys
import time
from collections import Counter

from contract.errors import HeadraceError
from streams import metadata
from streams.join import Rules
from tests.streams.drive import World
from tests.streams.laws import check, check_rereads
from tests.streams.worlds import RULES, Case, case_of

FULL_CHARS = metadata.MAX_CHARS
FAILURES = (AssertionError, LookupError, TypeError, ValueError, HeadraceError)


def rules_of(seed: int) -> Rules:
    """Draw the rules of a seed: mostly the smallest."""
    rnd = random.Random(-seed)
    return dataclasses.replace(
        RULES,
        history_length=rnd.choice([1, 1, 2]),
        shown_exposures=rnd.choice([0, 1, 2]),
        clicks_only=rnd.random() < 0.05,
    )


def chars_of(seed: int) -> int:
    """Draw the bound of the metadata: in a third of the cases the list of advances is soon full."""
    return random.Random(seed + 1).choice([FULL_CHARS, FULL_CHARS, metadata.FIXED_CHARS + 12])


def failure(rules: Rules, case: Case, chars: int) -> Exception | None:
    """What is wrong with a case; None: nothing. `chars` bounds the metadata, and so the list of advances."""
    world, plan = case
    metadata.MAX_CHARS = chars  # a small list of advances is soon full
    try:
        if rules.clicks_only:
            plan = [step for step in plan if step[0] != "x"]
            world = World([], world.clicks)
        check(rules, world, plan, replays=2)
        check_rereads(rules, world, plan)
    except FAILURES as error:
        return error
    finally:
        metadata.MAX_CHARS = FULL_CHARS
    return None


def shrink(rules: Rules, case: Case, chars: int) -> Case:
    """Leave records and steps out as long as it still fails."""
    again = True
    while again:
        again = False
        for part in range(3):
            at = 0
            while at < len(_parts(case)[part]):
                parts = _parts(case)
                parts[part] = parts[part][:at] + parts[part][at + 1 :]
                smaller = (World(parts[0], parts[1]), parts[2])
                if failure(rules, smaller, chars):
                    case, again = smaller, True
                else:
                    at += 1
    return case


def _parts(case: Case) -> list[list]:  # type: ignore[type-arg]  # two of records, one of steps
    world, plan = case
    return [world.exposures, world.clicks, plan]


def main(seconds: float, seed: int) -> int:
    """Run until the time is up or a case fails; exit code."""
    end, count, covered = time.monotonic() + seconds, 0, Counter[str]()
    while time.monotonic() < end:
        seed += 1
        count += 1
        case, rules = case_of(seed), rules_of(seed)
        chars = chars_of(seed)
        if failure(rules, case, chars):
            world, plan = shrink(rules, case, chars)
            lines = [f"FAIL seed={seed} logs={count} chars={chars} {rules}"]
            lines += [f"  {r.raw} {r.event or r.reason} arrival={r.arrival_ms}" for r in world.exposures + world.clicks]
            lines += [f"  plan {plan}", f"  {failure(rules, (world, plan), chars)!r}"[:1500]]
            sys.stdout.write("\n".join(lines) + "\n")
            return 1
        covered["crash"] += "crash" in case[1]
        covered["idle"] += any(step[0] == "i" for step in case[1])
        covered["clicks_only"] += rules.clicks_only
        covered["full_list"] += chars != FULL_CHARS
    sys.stdout.write(f"PASS logs={count} last_seed={seed} {dict(covered)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0))
