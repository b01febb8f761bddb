"""Which samples make a day."""

from trainer.days import Days
from trainer.gate import K, Paired

HOUR = 3_600_000
NOON = 1_650_888_000_000  # 2022-04-25T12:00:00Z


def added(days: Days, *hours: int) -> None:
    for hour in hours:
        days.add(hour % 2, hour, NOON + hour * HOUR)


def test_a_border_gives_the_day_and_what_came_since() -> None:
    """12:00 1 2 | 3 samples of the day, 1 of the next, read in between: each is on its side, in learned order."""
    days = Days("UTC", 2)
    assert not days.passed(NOON)
    added(days, 0, 1, 13, 2)
    assert days.passed(NOON + 13 * HOUR)
    day, since = days.take()
    assert (day.offset.tolist(), day.partition.tolist()) == ([0, 1, 2], [0, 1, 0])
    assert since.offset.tolist() == [13]
    assert not days.passed(NOON + 14 * HOUR)


def test_small_days_are_merged_and_a_jump_of_years_is_one_border() -> None:
    """Two samples on each of two days make one full update; four years of empty days make none."""
    days = Days("UTC", 3)
    days.passed(NOON)
    added(days, 0, 1)
    assert not days.passed(NOON + 24 * HOUR)
    added(days, 24, 25)
    assert days.passed(NOON + 4 * 366 * 24 * HOUR)
    assert days.take()[0].offset.tolist() == [0, 1, 24, 25]
    assert not days.passed(NOON + 4 * 367 * 24 * HOUR)


def test_samples_of_a_day_long_passed_belong_to_today() -> None:
    """After the jump another partition still brings 2022: those samples wait for today's border."""
    days = Days("UTC", 1)
    days.passed(NOON + 1_000 * 24 * HOUR)
    added(days, 5)
    assert not days.passed(NOON + 1_000 * 24 * HOUR + HOUR)
    assert days.passed(NOON + 1_001 * 24 * HOUR)
    assert days.take()[0].offset.tolist() == [5]


def test_borders_follow_the_time_zone() -> None:
    """16:00 UTC is midnight in Shanghai."""
    days = Days("Asia/Shanghai", 1)
    days.passed(NOON)
    added(days, 3)
    assert not days.passed(NOON + 4 * HOUR - 1)
    assert days.passed(NOON + 4 * HOUR)


def test_a_restored_day_goes_on() -> None:
    """Bookkeeping survives a checkpoint."""
    days = Days("UTC", 1)
    days.passed(NOON)
    added(days, 0, 1, 13)
    again = Days("UTC", 1)
    again.load(days.state())
    assert again.passed(NOON + 24 * HOUR)
    day, since = again.take()
    assert (day.offset.tolist(), since.offset.tolist()) == ([0, 1], [13])


def test_the_next_border_is_the_next_midnight_there() -> None:
    """Also on the day of 23 hours: 27 March 2022 in Berlin ends at 22:00 UTC; a restored one knows it, too."""
    days = Days("Europe/Berlin", 1)
    assert days.next_ms == 0
    days.passed(1_648_375_200_000)  # 27 March, 12:00 there
    assert days.next_ms == 1_648_418_400_000
    again = Days("Europe/Berlin", 1)
    again.load(days.state())
    assert again.next_ms == days.next_ms
    again.load(Days("Europe/Berlin", 1).state())


def test_a_full_update_out_of_turn() -> None:
    """All that is gathered, or the places asked for; the rest came since; a dry run forgets nothing."""
    days = Days("UTC", 2)
    added(days, 0, 1, 2)
    places = [(1, 1), (0, 900)]
    for keep in (True, False):
        day, since = days.ask(places, keep=keep)
        assert (day.places(), since.places()) == (places, [(0, 0), (0, 2)])
    day, since = days.ask([], keep=False)
    assert (day.places(), since.places()) == ([(0, 0), (0, 2)], [])
    assert len(days.offset) == 0


def test_hits_go_with_the_samples_of_a_day() -> None:
    """Popularity's and the model's hits of each day taken and of the one before; what was not ranked does not count.

    A sample of tomorrow read today is tomorrow's, and small days are taken together, as for the full update.
    """
    days = Days("UTC", 2)
    days.passed(NOON)

    def add(hour: int, rank: int, popularity_rank: int) -> None:
        days.add(0, hour, NOON + hour * HOUR, rank, popularity_rank)

    assert days.fits == (Paired(), Paired())
    for hour, rank, popularity_rank in [(0, K, K + 1), (1, K + 1, K), (13, 1, 1), (2, 0, 0), (3, 9, 9)]:
        add(hour, rank, popularity_rank)
    assert days.passed(NOON + 13 * HOUR)
    days.take()
    first = Paired(samples=3, served=2, candidate=2, only_served=1, only_candidate=1)
    assert days.fits == (first, Paired())
    assert not days.passed(NOON + 36 * HOUR)  # one sample: not enough
    add(37, 700, 3)
    again = Days("UTC", 2)
    again.load(days.state())
    assert again.fits == days.fits
    assert again.passed(NOON + 60 * HOUR)
    again.take()
    assert again.fits == (Paired(samples=2, served=2, candidate=1, only_served=1, only_candidate=0), first)


def test_a_checkpoint_without_hits_is_read() -> None:
    """One of an earlier release: its samples count as not ranked."""
    days = Days("UTC", 1)
    days.passed(NOON)
    added(days, 0, 1)
    old = {name: array for name, array in days.state().items() if name not in {"hits", "fits"}}
    again = Days("UTC", 1)
    again.load(old)
    assert again.passed(NOON + 24 * HOUR)
    assert len(again.take()[0].offset) == 2
    assert again.fits == (Paired(), Paired())
