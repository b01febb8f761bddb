"""Click-only mode (news, ratings): there are no exposures, every valid click is a sample at once (JOIN.md).

A sample's id is (user, item, ts_ms); a click of the same id is a repeat as long as it is remembered, until
W_clicks > ts: after that it would be late.
"""

from heapq import heappop, heappush

from contract.messages import Click, Sample
from streams.metadata import Start
from streams.output import Output
from streams.verdicts import Rules


class ClicksOnly:
    """Samples and remembered ids of one partition."""

    def __init__(self, rules: Rules, output: Output) -> None:
        self._lateness_ms = rules.lateness_ms
        self._output = output
        self._remembered: dict[tuple[str, str, int], tuple[int, int]] = {}  # id -> (offset, M before), by offset
        self._due: list[tuple[int, int, tuple[str, str, int]]] = []  # heap of (ts, offset, id)

    def click(self, offset: int, arrival_ms: int, event: Click, before_ms: int, m_ms: int) -> None:
        """Make a sample of a valid click, unless it is a repeat; `m_ms` is M with it, `before_ms` without."""
        name = (event.user_id, event.item_id, event.ts_ms)
        if name not in self._remembered:
            self._remembered[name] = (offset, before_ms)
            heappush(self._due, (event.ts_ms, offset, name))
            if not self._output.silent:
                self._sample(offset, arrival_ms, event)
        elif not self._output.silent:
            self._output.totals["click_repeats"] += 1
        while self._due and self._due[0][0] < m_ms - self._lateness_ms:
            del self._remembered[heappop(self._due)[2]]

    def start(self, position: int, m_ms: int, totals: dict[str, int]) -> Start:
        """Where a re-read begins: at the oldest remembered click."""
        oldest, before = next(iter(self._remembered.values()), (position, m_ms))
        return Start(oldest, before, totals, [])

    def _sample(self, offset: int, arrival_ms: int, event: Click) -> None:
        output, user, ts = self._output, event.user_id, event.ts_ms
        history = output.histories.before(user, offset, ts)
        output.samples.append(
            Sample(user, "", ts, event.item_id, ts, event.action, -1, history, event.context, arrival_ms, -1, offset)
        )
        output.totals["samples"] += 1
        output.popularity.click(event.item_id, ts)
