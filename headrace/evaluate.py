"""`headrace evaluate`: the cores of the live roles over a directory's events, and baselines beside them; no Kafka.

1. read and join the directory                              world.py
2. for the model and each variant: samples in event order, blocks of train.batch, each scored before it is learned; full
   updates, judged by the gate, on the live trainer's schedule with full.cutover_deadline 0     course.py
3. the baselines over the same positives                    baselines.py
4. recall_at_k of all, whole and warm (second half), by the item's age and by its clicks so far
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Any

import numpy as np
import torch

from contract.errors import InternalError
from contract.messages import ACTIONS, Sample
from contract.settings import Settings
from headrace import baselines
from headrace.positives import I64, Positives, positives_of
from headrace.variants import Variant, with_settings
from headrace.world import World
from trainer.batch import Batch
from trainer.course import Course
from trainer.days import Days
from trainer.evaluate import KS, Recall
from trainer.learner import Learner, Pairs
from trainer.model import Model
from trainer.self_supervision import Catalogue

HALF_LIVES = (250.0, 1_000.0, 2_000.0, 5_000.0, 20_000.0)
HOUR_MS, DAY_MS = 3_600_000, 86_400_000
NOT_SCORED = -1
FEW, MANY = 10, 100  # clicks of an item so far
Progress = Callable[[str, int, int], None]  # what, done, of


@dataclass(frozen=True)
class Row:
    """One method's ranks [P] of the positives, and the seconds it took; seeds are separate ranks."""

    name: str
    kind: str  # model, baseline
    ranks: list[I64]
    seconds: float
    facts: dict[str, Any]


class _Ranks(Recall):
    """The learner's own metric, which also keeps every rank."""

    def __init__(self) -> None:
        super().__init__()
        self.ranks: list[I64] = []

    def add(self, model: I64, popularity: I64) -> None:
        super().add(model, popularity)
        self.ranks.append(model)


class OnlineLearner(Learner):
    """Learns every parameter with every batch, once it is `all_online`."""

    all_online = False

    def learn(
        self, model: Model, batch: Batch, pairs: Pairs, *, everything: bool, catalogue: Catalogue | None = None
    ) -> float:
        """Learn a block; all parameters with it, if so wanted."""
        loss = super().learn(model, batch, pairs, everything=everything or self.all_online, catalogue=catalogue)
        if self.all_online:
            self.state.all_moved()
        return loss


def evaluate_model(
    world: World, settings: Settings, variant: Variant, progress: Progress
) -> tuple[I64, dict[str, Any]]:
    """Rank [S] of each sample that is its user's first on the item, else NOT_SCORED; and the learner's facts."""
    chosen = with_settings(settings, variant.settings)
    begins = chosen if variant.full_updates else settings
    torch.set_num_threads(chosen.train.threads)
    learner = OnlineLearner(begins.model, begins.train, begins.full, begins.history.length)
    kept = learner.state.recall = _Ranks()
    for item in world.items:
        learner.state.catalogue(item.item_id, item.features if variant.item_features else {})
    for user in world.users if variant.user_features else ():
        learner.state.profile(user.user_id, user.features)
    samples = [_stripped(sample, variant) for sample in world.samples]
    course = Course(
        learner,
        Days(chosen.full.time_zone, chosen.full.min_samples),
        lambda picks: [samples[n] for n in picks.offset.tolist()],
        chosen.gate,
    )
    scored = positives_of(samples, [], actions=ACTIONS).sample
    turns_at = len(samples) if variant.full_updates else scored[len(scored) // 2]
    begin = 0
    for at, passed_ms in enumerate(world.passed_ms):
        border = at < turns_at and course.days.day_of(passed_ms) > course.days.today
        if border or at == turns_at or at - begin == chosen.train.batch:
            course.learn(samples[begin:at], 0, range(begin, at))
            begin = at
            progress(variant.name, at, len(samples))
        if border:
            course.border(passed_ms)
        if at == turns_at:
            course.stop_full_updates()
            course.learner.train = chosen.train
            course.learner.all_online = variant.all_online  # type: ignore[attr-defined]
    course.learn(samples[begin:], 0, range(begin, len(samples)))
    progress(variant.name, len(samples), len(samples))
    ranks = np.full(len(samples), NOT_SCORED, np.int64)
    found = np.concatenate(kept.ranks) if kept.ranks else np.zeros(0, np.int64)
    if len(found) != len(scored):
        raise InternalError(
            f"{len(found)} ranks of {len(scored)} positives: rows were expired, raise train.max_item_rows"
        )
    ranks[scored] = found
    return ranks, {"live_metric": kept.metrics(), "samples": len(samples), **_verdicts(course)}


def _verdicts(course: Course) -> dict[str, Any]:
    """Full updates that passed, and what the gate said about each."""
    gate = [
        {
            "day": date.fromordinal(one.day).isoformat(),
            "samples": one.samples,
            "outcome": one.verdict.outcome,
            "reason": one.verdict.reason,
        }
        for one in course.judged
    ]
    return {"full_updates": sum(one["outcome"] == "passed" for one in gate), "gate": gate}


def _stripped(sample: Sample, variant: Variant) -> Sample:
    if variant.history and variant.context:
        return sample
    return Sample(
        sample.user_id,
        sample.request_id,
        sample.exposure_ts_ms,
        sample.item_id,
        sample.ts_ms,
        sample.action,
        sample.position,
        sample.history if variant.history else [],
        sample.context if variant.context else {},
        sample.arrival_ms,
        sample.exposure_offset,
        sample.click_offset,
    )


def model_row(
    world: World, positives: Positives, settings: Settings, variant: Variant, seeds: int, progress: Progress
) -> Row:
    """Evaluate one variant with as many seeds, counted from the one that is set."""
    begun, ranks, facts = time.monotonic(), [], dict[str, Any]()
    for seed in range(settings.train.seed, settings.train.seed + seeds):
        of_sample, facts = evaluate_model(world, with_settings(settings, {"train.seed": seed}), variant, progress)
        ranks.append(of_sample[positives.sample])
    return Row(variant.name, "model", ranks, time.monotonic() - begun, facts)


def baseline_rows(positives: Positives, batch: int, half_lives: Sequence[float], progress: Progress) -> list[Row]:
    """Evaluate all baselines."""
    methods: dict[str, Callable[[], baselines.Method]] = {
        "popularity, all time": lambda: baselines.Popularity(positives.items, np.inf)
    }
    for half_life in half_lives:
        methods[f"popularity, half-life {half_life:,.0f}"] = lambda h=half_life: baselines.Popularity(  # type: ignore[misc]
            positives.items, h
        )
    if positives.items <= baselines.DENSE_MAX_ITEMS:
        methods["item-item"] = lambda: baselines.ItemItem(positives.items, 1e-6, 5_000)
        methods["item-item + popularity"] = lambda: baselines.ItemItem(positives.items, 10.0, 2_000)
    methods["BPR-MF"] = lambda: baselines.BprMf(positives.users, positives.items)
    rows = []
    for name, make in methods.items():
        begun = time.monotonic()
        ranks = baselines.progressive_ranks(make(), positives, batch, lambda done, of, n=name: progress(n, done, of))  # type: ignore[misc]
        rows.append(Row(name, "baseline", [ranks], time.monotonic() - begun, {}))
    return rows


def report(positives: Positives, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Give each row's recall_at_k in per cent: warm, whole, and warm by item age and by the item's clicks so far."""
    size = len(positives)
    warm = np.arange(size) >= size // 2
    ages, clicks = positives.ages_ms(), positives.clicks_before()
    age_of = {
        "first click": ages < 0,
        "under 1 h": (ages >= 0) & (ages < HOUR_MS),
        "1 h to 1 day": (ages >= HOUR_MS) & (ages < DAY_MS),
        "over 1 day": ages >= DAY_MS,
    }
    clicks_of = {
        "0": clicks == 0,
        "1 to 9": (clicks >= 1) & (clicks < FEW),
        "10 to 99": (clicks >= FEW) & (clicks < MANY),
        "100 and more": clicks >= MANY,
    }
    return [
        {
            "name": row.name,
            "kind": row.kind,
            "warm": _recall(row, warm),
            "whole": _recall(row, np.ones(size, bool)),
            "seeds": [_recall(replace(row, ranks=[ranks]), warm) for ranks in row.ranks] if len(row.ranks) > 1 else [],
            "by_age": {name: _recall(row, warm & part) for name, part in age_of.items()},
            "by_clicks": {name: _recall(row, warm & part) for name, part in clicks_of.items()},
            "seconds": round(row.seconds, 1),
            **row.facts,
        }
        for row in rows
    ]


def _recall(row: Row, part: np.ndarray) -> dict[str, float | int | None]:
    """Mean over the seeds of recall_at_k over a part of the positives; None where the part is empty."""
    taken = [ranks[part & (ranks != NOT_SCORED)] for ranks in row.ranks]
    scored = len(taken[0])
    found: dict[str, float | int | None] = {"scored": scored}
    for k in KS:
        found[f"recall_at_{k}"] = round(100 * float(np.mean([np.mean(r <= k) for r in taken])), 2) if scored else None
    return found


def over_time(positives: Positives, ranks: I64, k: int, windows: int) -> tuple[I64, np.ndarray]:
    """Middle event time [w] and recall_at_k in per cent [w] of consecutive windows of positives."""
    scored = np.flatnonzero(ranks != NOT_SCORED)
    parts = [part for part in np.array_split(scored, min(windows, max(1, len(scored)))) if len(part)]
    middles = np.array([np.median(positives.ts_ms[part]) for part in parts], np.int64)
    return middles, np.array([100 * np.mean(ranks[part] <= k) for part in parts])
