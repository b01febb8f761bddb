"""The pages of benchmarks say what their results files hold."""

from pathlib import Path

from benchmarks import bench_ablation, bench_freshness_quality, freshness_page
from benchmarks.bench_freshness_quality import cells_of
from benchmarks.data_sets import DATA_SETS
from benchmarks.results_file import ResultsFile

ROOT = Path(__file__).parents[2]


def between(name: str) -> str:
    """What stands in benchmarks/README.md between two marks."""
    text = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    return text.split(f"<!-- {name} -->\n", 1)[1].split(f"\n<!-- /{name} -->", 1)[0]


def test_freshness_tables_are_the_results() -> None:
    """The tables are made from the committed cells, all of which are the benchmark's; one that is missing is a dash."""
    file = ResultsFile(ROOT / bench_freshness_quality.RESULTS, bench_freshness_quality.KEY)
    cells = file.cells()
    assert set(cells) <= {file.key(cell) for data in DATA_SETS.values() for cell in cells_of(data)}
    assert between("freshness") == freshness_page.page(cells)


def test_ablation_table_is_the_results() -> None:
    """Likewise."""
    cells = ResultsFile(ROOT / bench_ablation.RESULTS, bench_ablation.KEY).cells()
    assert between("ablation") == bench_ablation.page(cells)
