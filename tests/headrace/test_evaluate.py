"""Evaluation: the protocol by brute force, popularity's known values, variants, and what the command refuses."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from contract.errors import BadInputError
from contract.interchange import write
from contract.messages import ACTIONS, Click, Exposure, HistoryEntry, Item, Sample
from contract.settings import load
from headrace import baselines, evaluate, settings_file
from headrace.positives import MISS, positives_of
from headrace.variants import VARIANTS, named, with_settings
from headrace.world import World, read_world

EXAMPLE = Path(__file__).parents[2] / "examples" / "kuairand"
START_MS = 1_650_844_800_000
HOUR_MS = 3_600_000
SMALL = {"full.min_samples": 50, "gate.min_samples": 20, "gate.tolerance": 1.0}


def sample(user: int, item: int, ts_ms: int, action: str = "click", history: tuple[int, ...] = ()) -> Sample:
    """One click as streams would hand it out."""
    entries = [HistoryEntry(f"i{i}", ts_ms - 1, "click") for i in history]
    return Sample(f"u{user}", "", ts_ms, f"i{item}", ts_ms, action, -1, entries, {}, ts_ms, -1, 0)


def random_samples(n: int, seed: int) -> list[Sample]:
    """Clicks in time order, many at equal times, many repeated."""
    rng = np.random.default_rng(seed)
    users, items = rng.integers(8, size=n), np.minimum(rng.geometric(0.08, size=n), 30)
    times = START_MS + np.sort(rng.integers(n // 3, size=n)) * 1_000
    return [sample(int(u), int(i), int(t)) for u, i, t in zip(users, items, times, strict=True)]


def by_brute_force(samples: list[Sample], listed: list[str], half_life: float, batch: int) -> list[float]:
    """Ranks of decayed popularity, written as the protocol says it."""
    first: dict[tuple[str, str], Sample] = {}
    for one in samples:
        first.setdefault((one.user_id, one.item_id), one)
    positives = list(first.values())
    counts: dict[str, float] = dict.fromkeys(listed, 0.0)
    ranks: list[float] = []
    for begin in range(0, len(positives), batch):
        block = positives[begin : begin + batch]
        for place, one in enumerate(block, begin):
            if one.item_id not in counts:
                ranks.append(float("inf"))
                continue
            before = [p for p in positives[:place] if p.user_id == one.user_id and p.ts_ms < one.ts_ms]
            out = {p.item_id for p in before}
            ranks.append(sum(c >= counts[one.item_id] for i, c in counts.items() if i not in out))
        for one in block:
            counts = {item: count * 0.5 ** (1 / half_life) for item, count in counts.items()}
            counts[one.item_id] = counts.get(one.item_id, 0.0) + 1
    return ranks


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("listed", [0, 20, 31])
def test_protocol_by_brute_force(seed: int, listed: int) -> None:
    """Popularity's ranks are those of the protocol spelled out, whatever part of the items is listed."""
    samples, catalogue = random_samples(300, seed), [f"i{n}" for n in range(listed)]
    positives = positives_of(samples, catalogue, actions=ACTIONS)
    found = baselines.progressive_ranks(baselines.Popularity(positives.items, 40), positives, 16)
    wanted = by_brute_force(samples, catalogue, 40, 16)
    assert [float("inf") if rank == MISS else rank for rank in found.tolist()] == wanted


@pytest.fixture(scope="module")
def example() -> World:
    """Six days of KuaiRand, read and joined."""
    return read_world(EXAMPLE, load({}))


def test_popularity_known_values(example: World) -> None:
    """On the example, is_click only, half-life 2,000: 5.99 / 18.46 / 27.74 warm, as by the reference program."""
    positives = positives_of(example.samples, [item.item_id for item in example.items], actions=("click",))
    assert (positives.listed, positives.items) == (7_583, 7_583)
    ranks = baselines.progressive_ranks(baselines.Popularity(positives.items, 2_000), positives, 256)
    row = evaluate.report(positives, [evaluate.Row("popularity", "baseline", [ranks], 0.0, {})])[0]
    warm = [row["warm"][f"recall_at_{k}"] for k in (10, 50, 100)]
    assert warm == [5.99, 18.46, 27.74]
    assert example.totals["dead_letters"] == 0


def test_two_ways_to_rank_popularity(example: World) -> None:
    """The learner's popularity and the baseline's agree, sample by sample counted, on the same positives."""
    part = World(
        example.samples[:6_000],
        example.passed_ms[:6_000],
        example.items,
        example.users,
        example.totals,
        False,  # noqa: FBT003
    )
    settings = with_settings(load({}), {"full.min_samples": 10**9})
    _, facts = evaluate.evaluate_model(part, settings, VARIANTS["no-features"], lambda *_: None)
    positives = positives_of(part.samples, [item.item_id for item in part.items], actions=ACTIONS)
    ranks = baselines.progressive_ranks(baselines.Popularity(positives.items, 2_000), positives, 256)
    # blocks differ a little: the learner's are of samples and end at day borders, the baseline's are of positives
    assert facts["live_metric"]["popularity_recall_at_50"] == pytest.approx(np.mean(ranks <= 50), abs=0.005)
    assert facts["live_metric"]["scored"] == len(positives)


def test_positives_are_first_clicks() -> None:
    """A user's first click on an item counts once; other actions only where asked for; ages and counts follow."""
    samples = [
        sample(1, 1, START_MS),
        sample(1, 1, START_MS + 5),
        sample(2, 1, START_MS + HOUR_MS, "like"),
        sample(2, 1, START_MS + 2 * HOUR_MS),
        sample(2, 3, START_MS + 3 * HOUR_MS, history=(1,)),
    ]
    clicks = positives_of(samples, ["i9"], actions=("click",))
    assert clicks.sample.tolist() == [0, 3, 4]
    assert (clicks.listed, clicks.items) == (1, 3)
    assert clicks.ages_ms().tolist() == [-1, 2 * HOUR_MS, -1]
    assert clicks.clicks_before().tolist() == [0, 1, 0]
    assert clicks.history[2, 0] == clicks.item[0]
    assert positives_of(samples, [], actions=ACTIONS).sample.tolist() == [0, 2, 4]


def tiny(directory: Path, gap_ms: int = 250_000) -> Path:
    """A world of two days, or of more, of exposures and clicks in which even users like even items."""
    rng = np.random.default_rng(1)
    exposures, clicks = [], []
    for number in range(600):
        user, ts_ms = int(rng.integers(20)), START_MS + number * gap_ms
        items = [f"i{n}" for n in rng.permutation(40)[:8]]
        exposures.append(Exposure(f"r{number}", f"u{user}", ts_ms, items, {"page": "a"}))
        liked = next((item for item in items if int(item[1:]) % 2 == user % 2), None)
        if liked is not None:
            clicks.append(Click(f"u{user}", liked, ts_ms + 1_000, "click", f"r{number}"))
    write(directory, "exposures", exposures)
    write(directory, "clicks", clicks)
    write(directory, "items", [Item(f"i{n}", START_MS, {"parity": str(n % 2)}) for n in range(40)])
    return directory


def test_command(tmp_path: Path) -> None:
    """The command prints model, variant and baselines as JSON and draws a picture; towers beat popularity here."""
    import typer  # noqa: PLC0415

    from headrace import commands_evaluate  # noqa: PLC0415

    app = typer.Typer()
    commands_evaluate.register(app)
    app.command("other")(lambda: None)
    directory, picture = tiny(tmp_path / "world"), tmp_path / "recall.png"
    flags = [
        "--set",
        "full.min_samples=50",
        "--set",
        "gate.min_samples=20",
        "--set",
        "gate.tolerance=1",
        "--set",
        "train.batch=16",
        "--variant",
        "frozen",
        "--half-life",
        "500",
    ]
    done = CliRunner().invoke(app, ["evaluate", str(directory), *flags, "--plot", str(picture), "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    rows = {row["name"]: row for row in found["rows"]}
    assert set(rows) >= {"model", "frozen", "popularity, all time", "popularity, half-life 500", "BPR-MF"}
    assert rows["model"]["full_updates"] >= 1
    assert len(rows["model"]["gate"]) >= rows["model"]["full_updates"]
    assert rows["frozen"]["full_updates"] == 0
    assert rows["model"]["warm"]["recall_at_10"] > rows["popularity, all time"]["warm"]["recall_at_10"]
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_same_settings_same_ranks(tmp_path: Path) -> None:
    """An evaluation is reproducible bit by bit."""
    world, settings = read_world(tiny(tmp_path), load({})), with_settings(load({}), SMALL)
    one, two = (evaluate.evaluate_model(world, settings, VARIANTS["model"], lambda *_: None)[0] for _ in range(2))
    assert (one == two).all()


def test_variants_differ(tmp_path: Path) -> None:
    """Each variant changes what is served: none of them is a name without effect."""
    world = read_world(tiny(tmp_path), load({}))
    settings = with_settings(load({}), {**SMALL, "train.batch": 16, "full.self_weight": 0.1})
    ranks = {n: evaluate.evaluate_model(world, settings, v, lambda *_: None)[0] for n, v in VARIANTS.items()}
    same = [
        n for n in VARIANTS if n not in ("model", "prior", "no-user-features") and (ranks[n] == ranks["model"]).all()
    ]
    assert same == []


def test_what_stops_full_updates_is_the_model_until_the_middle(tmp_path: Path) -> None:
    """Frozen, IDs only and all-online ones go on from a trained model: the first half's ranks are the model's."""
    world = read_world(tiny(tmp_path, gap_ms=600_000), load({}))
    settings = with_settings(load({}), {**SMALL, "train.batch": 16})
    wanted, facts = evaluate.evaluate_model(world, settings, VARIANTS["model"], lambda *_: None)
    scored = np.flatnonzero(wanted != evaluate.NOT_SCORED)
    middle = scored[len(scored) // 2]
    assert facts["full_updates"]
    for name in ("frozen", "no-full", "all-online"):
        ranks, facts = evaluate.evaluate_model(world, settings, VARIANTS[name], lambda *_: None)
        assert facts["full_updates"], name
        assert (ranks[:middle] == wanted[:middle]).all(), name
        assert (ranks[middle:] != wanted[middle:]).any(), name


def test_clicks_only_directory(tmp_path: Path) -> None:
    """Without an exposures file every click is a sample."""
    write(tmp_path, "clicks", [Click("u1", "i1", START_MS), Click("u1", "i2", START_MS + 5)])
    world = read_world(tmp_path, load({}))
    assert world.clicks_only
    assert [s.item_id for s in world.samples] == ["i1", "i2"]


def test_refusals(tmp_path: Path) -> None:
    """Unknown variants and unreadable settings are refused with what there is and what is wrong."""
    with pytest.raises(BadInputError, match=r"no variant best; there are model, prior"):
        named(["model", "best"])
    with pytest.raises(BadInputError, match="cannot read"):
        settings_file.read(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("[model\n")
    with pytest.raises(BadInputError, match="no TOML"):
        settings_file.read(tmp_path / "bad.toml")
    (tmp_path / "good.toml").write_text("[model]\ndim = 8\nhistory_decays = [0.5]\n")
    assert settings_file.read(tmp_path / "good.toml") == {"model.dim": 8, "model.history_decays": [0.5]}
