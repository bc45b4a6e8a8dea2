from __future__ import annotations

import datetime as dt
import gzip
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from linkedout_lightning.data import Interactions, from_columns, read_interactions, read_titles
from linkedout_lightning.data.readers import RawInteractions, time_values
from linkedout_lightning.errors import ConfigError, DataError

ROWS = [("u1", "007", 3), ("u2", "7", 1), ("u1", "NA", 2)]


def rows_of(raw: RawInteractions) -> list[tuple[str, str, float]]:
    time = time_values(raw.time, raw.source) if raw.time is not None else range(len(raw.user))
    return list(zip(raw.user.to_pylist(), raw.item.to_pylist(), list(time), strict=True))


def write(path: Path, text: str) -> Path:
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text, newline="")
    return path


def table(header: str, separator: str, end: str = "\n") -> str:
    return end.join([header, *(separator.join(map(str, row)) for row in ROWS)]) + end


@pytest.mark.parametrize(
    ("name", "header", "separator", "end"),
    [
        ("a.inter", "user_id:token\titem_id:token\ttimestamp:float", "\t", "\n"),
        ("a.inter.gz", "user_id:token\titem_id:token\ttimestamp:float", "\t", "\n"),
        ("MicroLens-100k_pairs.csv", "user,item,timestamp", ",", "\n"),
        ("pairs.csv.gz", "user,item,timestamp", ",", "\n"),
        ("a.csv", "\ufeffUserId;VideoId;Time", ";", "\r\n"),
        ("a.tsv", "user\titem\ttimestamp", "\t", "\n"),
        ("a.txt", "uid|iid|ts", "|", "\n"),
        ("a.csv", '"user_id","item_id","date"', ",", "\n"),
    ],
)
def test_text_files(tmp_path: Path, name: str, header: str, separator: str, end: str) -> None:
    raw = read_interactions(write(tmp_path / name, table(header, separator, end)))
    assert rows_of(raw) == ROWS


def test_other_columns_and_their_order_do_not_matter(tmp_path: Path) -> None:
    text = "rating:float\titem_id:token\ttags:token_seq\tuser_id:token\ttimestamp:float\n"
    text += '5.0\ti "1\ta b c\tu\t881250949\n'  # RecBole knows no quotes
    assert rows_of(read_interactions(write(tmp_path / "x.inter", text))) == [
        ("u", 'i "1', 881250949.0)
    ]


def test_recbole_folder(tmp_path: Path) -> None:
    folder = tmp_path / "ml-tiny"
    folder.mkdir()
    write(folder / "ml-tiny.inter", table("user_id:token\titem_id:token\ttimestamp:float", "\t"))
    assert rows_of(read_interactions(folder)) == ROWS


def test_named_columns(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "who,what,when,user\nu,i,5,x\n")
    raw = read_interactions(path, user_column="who", item_column="what", time_column="when")
    assert rows_of(raw) == [("u", "i", 5)]
    with pytest.raises(DataError, match="no user column 'whom'; its columns are 'who', 'what'"):
        read_interactions(path, user_column="whom")
    with pytest.raises(DataError, match=r"which column of .* is the item.*'when'.*item_column"):
        read_interactions(path)


def test_no_time_column(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "user,item\nu,b\nu,a\n")
    with pytest.raises(DataError, match="time_column='row-order'"):
        read_interactions(path)
    raw = read_interactions(path, time_column="row-order")
    assert (raw.time, raw.item.to_pylist()) == (None, ["b", "a"])


@pytest.mark.parametrize("name", ["MicroLens-50k_pairs.tsv", "MicroLens-50k_pairs.tsv.gz"])
def test_microlens_sequences(tmp_path: Path, name: str) -> None:
    text = "2\t16657 915  9127 \n1\t915\n2\t3\n"
    raw = read_interactions(write(tmp_path / name, text))
    assert raw.user.to_pylist() == ["2", "2", "2", "1", "2"]
    assert raw.item.to_pylist() == ["16657", "915", "9127", "915", "3"]
    data = Interactions.from_raw(raw)
    assert [data.item_ids[i - 1] for i in data.item_index] == ["16657", "915", "9127", "3", "915"]
    assert not data.has_time


def test_one_item_sequences_need_the_format(tmp_path: Path) -> None:
    path = write(tmp_path / "pairs.tsv", "1\t915\n2\t3\n")
    assert read_interactions(path, format="pairs").user.to_pylist() == ["1", "2"]


def test_broken_pairs(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="incomplete"):
        read_interactions(write(tmp_path / "a.tsv", "1\t2 3\n2\t\n"))
    with pytest.raises(DataError, match="cannot be read"):
        read_interactions(write(tmp_path / "b.tsv", "1\t2 3\n2\t3\t4\n"))


@pytest.mark.parametrize(
    "columns",
    [
        {"user_id": ["u1", "u2", "u1"], "item": ["007", "7", "NA"], "timestamp": [3, 1, 2]},
        {"user": pa.array(["u1", "u2", "u1"]).dictionary_encode(), "item_id": ["007", "7", "NA"],
         "ts": [3.0, 1.0, 2.0]},
    ],
)  # fmt: skip
def test_parquet(tmp_path: Path, columns: dict[str, list[object]]) -> None:
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    assert rows_of(read_interactions(tmp_path / "a.parquet")) == ROWS


def test_parquet_integer_ids(tmp_path: Path) -> None:
    columns = {"user": [1, 2], "item": pa.array([12.0, None]), "time": [0, 1]}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    raw = read_interactions(tmp_path / "a.parquet")
    assert (raw.user.to_pylist(), raw.item.to_pylist()) == (["1", "2"], ["12", None])
    pq.write_table(pa.table({**columns, "item": [0.5, 1.0]}), tmp_path / "b.parquet")
    with pytest.raises(DataError, match="fractions"):
        read_interactions(tmp_path / "b.parquet")


MOMENT = dt.datetime(2024, 5, 17, 12, 30, tzinfo=dt.UTC)


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pa.array([5, 2**53 + 1]), [5, 2**53 + 1]),
        (pa.array(["5", "-1"]), [5, -1]),
        (pa.array(["5.5", "1e3"]), [5.5, 1000.0]),
        (pa.array(["2024-05-17 12:30:00", "2024-05-17T12:30:01"]), [1715949000e6, 1715949001e6]),
        (pa.array(["2024-05-17T12:30:00Z", "2024-05-17T14:30:01+02:00"]),
         [1715949000e6, 1715949001e6]),
        (pa.array([MOMENT, MOMENT]), [1715949000e6] * 2),
        (pa.array([dt.date(1970, 1, 2)]), [86400e6]),
    ],
)  # fmt: skip
def test_times(column: pa.Array, expected: list[float]) -> None:
    assert time_values(column, "x").tolist() == expected


def test_missing_and_odd_times() -> None:
    assert np.isnan(time_values(pa.array([None, 1]), "x")[0])
    with pytest.raises(DataError, match="'noon'"):
        time_values(pa.array([None, "noon"]), "x")
    with pytest.raises(DataError, match="not a time"):
        time_values(pa.array([[1]]), "x")


def test_titles(tmp_path: Path) -> None:
    text = 'item,title\n1,"Duck, fried\nand hot"\n007,plain\n3,\n'
    expected = {"1": "Duck, fried\nand hot", "007": "plain", "3": ""}
    assert read_titles(write(tmp_path / "MicroLens-100k_title_en.csv", text)) == expected
    headless = write(tmp_path / "t.csv.gz", text.split("\n", 1)[1])
    assert read_titles(headless) == expected
    with pytest.raises(DataError, match="item and a title"):
        read_titles(write(tmp_path / "one.csv", "1\n2\n"))


def test_faults_of_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no interaction file"):
        read_interactions(tmp_path / "none.csv")
    with pytest.raises(DataError, match="by its name"):
        read_interactions(write(tmp_path / "a.dat", "user,item,time\n"))
    with pytest.raises(ConfigError, match="auto, inter, pairs"):
        read_interactions(tmp_path / "a.dat", format="json")
    with pytest.raises(DataError, match="empty"):
        read_interactions(write(tmp_path / "empty.csv", ""))
    with pytest.raises(DataError, match="RecBole header"):
        read_interactions(write(tmp_path / "b.inter", "user_id\titem_id\ttimestamp\n"))
    with pytest.raises(DataError, match="sequences"):
        read_interactions(
            write(tmp_path / "c.inter", "user_id:token\titem_id:token_seq\ttimestamp:float\n")
        )
    with pytest.raises(DataError, match="Parquet"):
        read_interactions(write(tmp_path / "d.parquet", "user,item,time\n"))
    (tmp_path / "e.csv").write_bytes(b"\xff\xfe\x00bad")
    with pytest.raises(DataError, match="not readable text"):
        read_interactions(tmp_path / "e.csv")
    (tmp_path / "f.csv.gz").write_bytes(b"not gzip")
    with pytest.raises(DataError, match="not readable"):
        read_interactions(tmp_path / "f.csv.gz")
    with pytest.raises(DataError, match="equally many"):
        from_columns(["u"], [])


def test_header_alone_says_so(tmp_path: Path) -> None:
    raw = read_interactions(write(tmp_path / "a.csv", "user,item,time\n"))
    with pytest.raises(DataError, match="no usable interaction"):
        Interactions.from_raw(raw)


def test_real_files(shared_data: Path) -> None:
    folder = shared_data / "microlens"
    raw = read_interactions(folder / "MicroLens-50k_pairs.tsv.gz")
    with gzip.open(folder / "MicroLens-50k_pairs.tsv.gz", "rt") as lines:
        expected = [
            (user, item)
            for user, items in (line.rstrip("\n").split("\t") for line in lines)
            for item in items.split(" ")
        ]
    assert list(zip(raw.user.to_pylist(), raw.item.to_pylist(), strict=True)) == expected
    titles = read_titles(folder / "MicroLens-50k_titles.csv.gz")
    assert set(titles) == {item for _, item in expected}
    assert len(titles) == 19_220
