"""Each converter on a few rows in the source's own layout: the rules, row by row, and the same bytes each time."""

import gzip
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from contract.errors import BadInputError
from contract.interchange import locate, merged, read, write
from contract.messages import Click

EXAMPLES = Path(__file__).parents[2] / "examples"


def _convert(name: str, source: Path, target: Path) -> None:
    subprocess.run([sys.executable, str(EXAMPLES / f"convert_{name}.py"), str(source), str(target)], check=True)


def _records(directory: Path, topic: str) -> list[Any]:
    return [msgspec.json.decode(line.value) for line in read(locate(directory)[topic], topic)]


def _gzip(path: Path, *lines: str) -> None:
    path.write_bytes(gzip.compress("\n".join([*lines, ""]).encode()))


@pytest.mark.parametrize("name", ["globo", "kuairand", "ml1m", "trivago"])
def test_a_source_without_its_files_is_named(name: str, tmp_path: Path) -> None:
    """A wrong SOURCE is one clear line that names what is missing, exit 2, and no TARGET."""
    command = [sys.executable, str(EXAMPLES / f"convert_{name}.py"), str(tmp_path / "none"), str(tmp_path / "target")]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 2
    assert f"{tmp_path / 'none'} holds no " in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "target").exists()


def test_kuairand(tmp_path: Path) -> None:
    """Requests split at 30 s, at another tab and by user; duplicates go; four flags become four actions.

    u1: item 1 (tab 1) | +30 s item 2 | +31 s item 3: a new request | +1 s item 4 on tab 2: a new request
    u2: item 1 twice in one request, once more as an exact duplicate row
    """
    start = 1_650_000_000_000
    columns = "user_id,video_id,time_ms,is_click,is_like,is_follow,is_forward,tab"
    _gzip(
        tmp_path / "log_standard_x_pure.csv.gz",
        columns,
        f"1,1,{start},1,1,1,1,1",
        f"2,1,{start + 5},0,0,0,0,1",
        f"2,1,{start + 5},0,0,0,0,1",
        f"2,1,{start + 9},1,0,0,0,1",
        f"1,2,{start + 30_000},1,0,0,0,1",
        f"1,3,{start + 61_000},0,0,0,0,1",
        f"1,4,{start + 62_000},0,0,0,0,2",
    )
    texts = [
        "user_active_degree",
        *(f"{n}_user_num_range" for n in ("follow", "fans", "friend")),
        "register_days_range",
    ]
    names = ["user_id", "is_live_streamer", "is_video_author", *texts, *(f"onehot_feat{n}" for n in range(18))]
    _gzip(tmp_path / "user_features_pure.csv.gz", ",".join(names), *(f"{u},-124,1" + ",1.0" * 23 for u in (1, 2, 3)))
    videos = "video_id,author_id,video_type,upload_dt,upload_type,video_duration,server_width,server_height,"
    rows = ['1,9,AD,2022-04-10,UNKNOWN,8000.0,720.0,1280.0,9.0,"39,68"', "2,9,NORMAL,2022-04-10,Web,,1280,720,,"]
    _gzip(tmp_path / "video_features_basic_pure.csv.gz", f"{videos}music_type,tag", *rows)
    _convert("kuairand", tmp_path, tmp_path / "a")
    _convert("kuairand", tmp_path, tmp_path / "b")
    for name in ("exposures", "clicks", "items", "users"):
        assert (tmp_path / "a" / f"{name}.jsonl.gz").read_bytes() == (tmp_path / "b" / f"{name}.jsonl.gz").read_bytes()
    exposures = _records(tmp_path / "a", "exposures")
    assert [(e["user_id"], e["ts_ms"] - start, e["items"], e["context"]) for e in exposures] == [
        ("1", 0, ["1", "2"], {"tab": "1"}),
        ("2", 5, ["1"], {"tab": "1"}),
        ("1", 61_000, ["3"], {"tab": "1"}),
        ("1", 62_000, ["4"], {"tab": "2"}),
    ]
    clicks = _records(tmp_path / "a", "clicks")
    assert [(c["user_id"], c["ts_ms"] - start, c["action"]) for c in clicks] == [
        *(("1", 1, action) for action in ("click", "like", "favourite", "share")),
        ("2", 10, "click"),
        ("1", 30_001, "click"),
    ]
    assert {c["request_id"] for c in clicks if c["user_id"] == "1"} == {exposures[0]["request_id"]}
    items = _records(tmp_path / "a", "items")
    assert items[0]["features"]["tag"] == ["39", "68"]
    assert items[0]["features"]["duration_ms"] == 8000
    assert items[1]["features"] == {
        "author_id": "9",
        "video_type": "NORMAL",
        "upload_type": "Web",
        "upload_dt": "2022-04-10",
        "orientation": "landscape",
    }
    users = _records(tmp_path / "a", "users")
    assert [u["user_id"] for u in users] == ["1", "2"]
    assert "is_live_streamer" not in users[0]["features"]
    assert users[0]["features"]["onehot_feat17"] == "1"


def test_trivago(tmp_path: Path) -> None:
    """A clickout's list is the exposure; a second clickout on the same list shares it; other actions have none."""
    _gzip(
        tmp_path / "interaction_dataset.csv.gz",
        "session_id,user_id,timestamp,action_type,item_id,impressions",
        """s,u,1541422443,clickout item,2,"['1', '2', '3']\"""",
        """s,u,1541422450,interaction item info,2,""",
        """s,u,1541422460,clickout item,3,"['1', '2', '3']\"""",
        """s,u,1541429999,clickout item,3,"['1', '2', '3']\"""",
    )
    (tmp_path / "item_metadata.csv").write_text("item_id,properties\n1,WiFi|Beach\n")
    _convert("trivago", tmp_path, tmp_path / "out")
    exposures, clicks = _records(tmp_path / "out", "exposures"), _records(tmp_path / "out", "clicks")
    assert [(e["ts_ms"], e["items"]) for e in exposures] == [
        (1_541_422_443_000, ["1", "2", "3"]),
        (1_541_429_999_000, ["1", "2", "3"]),
    ]
    first, second = (e["request_id"] for e in exposures)
    assert [(c["item_id"], c["request_id"]) for c in clicks] == [("2", first), ("3", first), ("3", second)]
    assert _records(tmp_path / "out", "items")[0]["features"] == {"properties": ["WiFi", "Beach"]}


def test_ml1m(tmp_path: Path) -> None:
    """Ratings of 4 and 5 are clicks; genres and the title's year, gender, age and occupation are features."""
    _gzip(tmp_path / "ratings.dat.gz", "1::7::3::978300760", "1::7::4::978300761", "2::7::5::978300750")
    (tmp_path / "movies.dat").write_bytes("7::Léon (1994)::Crime|Drama\n".encode("latin-1"))
    (tmp_path / "users.dat").write_text("1::F::25::10::48067\n2::M::56::16::70072\n")
    _convert("ml1m", tmp_path, tmp_path / "out")
    assert [c["user_id"] for c in _records(tmp_path / "out", "clicks")] == ["2", "1"]
    assert _records(tmp_path / "out", "items")[0]["features"] == {"genre": ["Crime", "Drama"], "year": "1994"}
    assert _records(tmp_path / "out", "users")[0]["features"] == {"gender": "F", "age": "25", "occupation": "10"}


def test_globo(tmp_path: Path) -> None:
    """Every row is a click without a request, its context the six columns."""
    columns = "ts_ms,user_id,item_id,environment,device,os,country,region,referrer"
    _gzip(tmp_path / "clicks_x.csv.gz", columns, "1506826814140,111,202436,4,3,2,1,9,7")
    _convert("globo", tmp_path, tmp_path / "out")
    (click,) = _records(tmp_path / "out", "clicks")
    assert (click["user_id"], click["item_id"], click["request_id"]) == ("111", "202436", None)
    assert click["context"]["referrer"] == "7"
    assert len(click["context"]) == 6


def test_an_interchange_directory_that_is_none(tmp_path: Path) -> None:
    """No directory, an empty one, and one with both forms of a file are refused by name; plain files are taken."""
    with pytest.raises(BadInputError, match="is no directory"):
        locate(tmp_path / "nowhere")
    with pytest.raises(BadInputError, match="holds no interchange file: wanted one or more of items"):
        locate(tmp_path)
    click = Click("u", "i", 1_650_000_000_000)
    write(tmp_path, "clicks", [click])
    plain = tmp_path / "clicks.jsonl"
    plain.write_bytes(gzip.decompress((tmp_path / "clicks.jsonl.gz").read_bytes()))
    with pytest.raises(BadInputError, match=r"holds both clicks\.jsonl\.gz and clicks\.jsonl"):
        locate(tmp_path)
    (tmp_path / "clicks.jsonl.gz").unlink()
    assert [line.message for line in merged(locate(tmp_path))] == [click]
