from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from linkedout_lightning.data import InteractionDataModule
from linkedout_lightning.errors import ConfigError, DataError
from linkedout_lightning.evaluation import RankingMetrics, target_ranks
from linkedout_lightning.evaluation.baselines import CoOccurrence, Popularity, Scorer

SEQUENCES = st.lists(st.lists(st.integers(1, 6), max_size=7), min_size=1, max_size=6)


@settings(deadline=None)
@given(
    sequences=SEQUENCES,
    histories=st.lists(st.lists(st.integers(0, 6), min_size=3, max_size=3), max_size=4),
    window=st.none() | st.integers(1, 3),
)
def test_co_occurrence_equals_counting_pairs(
    sequences: list[list[int]], histories: list[list[int]], window: int | None
) -> None:
    # Rows of other users lie between the training ranges, as they do in a split.
    flat = torch.tensor([i for s in sequences for i in [*s, 6, 6]])
    start = torch.tensor([0] + [len(s) + 2 for s in sequences[:-1]]).cumsum(0)
    stop = start + torch.tensor([len(s) for s in sequences])
    floor = CoOccurrence(flat, start, stop, num_items=6, window=window)
    history = torch.tensor(histories, dtype=torch.int64).view(-1, 3)
    counts = [sum(s.count(i) for s in sequences) for i in range(7)]
    for row, found in zip(histories, floor.scores(history).tolist(), strict=True):
        for item in range(7):
            pairs = sum(
                (s[a] == before and s[b] == item) / max(1, counts[before])
                for before in set(row) - {0} for s in sequences
                for b in range(len(s)) for a in range(max(0, b - (window or 9)), b)
            )  # fmt: skip
            assert found[item] == pytest.approx(pairs)


def test_bad_arguments() -> None:
    with pytest.raises(DataError, match="counts"):
        Popularity(torch.zeros(1))
    one = torch.tensor([0])
    with pytest.raises(ConfigError, match="window"):
        CoOccurrence(one, one, one, num_items=1, window=0)


def test_floors_of_microlens(shared_data: Path) -> None:
    data = InteractionDataModule(
        shared_data / "microlens" / "MicroLens-50k_pairs.tsv.gz", preset="microlens"
    )
    data.setup()
    split = data.parts
    floors: dict[str, Scorer] = {
        "popularity": Popularity(data.train_counts),
        "co-occurrence": CoOccurrence(
            split.items, split.train_start, split.train_stop, num_items=data.num_items
        ),
    }
    found = {}
    for name, floor in floors.items():
        metric = RankingMetrics(ks=(10, 20))
        for users, inputs, target, history in data.test_dataloader():
            assert len(users) == len(target)
            metric.update(target_ranks(floor.scores(inputs, history), target, history))
        found[name] = {key: round(float(v), 4) for key, v in metric.compute().items()}
    assert found["popularity"]["HR@10"] == 0.0028
    assert found["popularity"]["NDCG@10"] == 0.0015
    # Figures of another program, whose definition is not known to the last detail.
    expected = {"HR@10": 0.0502, "NDCG@10": 0.0283, "HR@20": 0.0708, "NDCG@20": 0.0335}
    for name, value in expected.items():
        assert found["co-occurrence"][name] == pytest.approx(value, abs=0.0005)
