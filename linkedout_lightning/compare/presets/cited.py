"""What publications report for MicroLens-100K: for reading beside a table, never measured here."""

from __future__ import annotations

from typing import Any

COLUMNS = ("HR@10", "NDCG@10", "HR@20", "NDCG@20")
PUBLISHED: tuple[tuple[str, tuple[float | None, ...]], ...] = (
    ("SASRec-ID", (0.0909, 0.0517, 0.1278, 0.0610)),
    ("GRU4Rec-ID", (0.0782, 0.0423, 0.1147, 0.0515)),
    ("NextItNet-ID", (0.0805, 0.0442, 0.1175, 0.0535)),
    ("SASRec, ID and frozen VideoMAE", (0.0799, 0.0415, 0.1217, 0.0520)),
    ("SASRec, frozen VideoMAE alone", (0.0496, 0.0276, None, None)),
    ("GRU4Rec, video encoder trained end to end", (0.0954, 0.0517, 0.1377, 0.0623)),
    ("SASRec, video encoder trained end to end", (0.0948, 0.0515, 0.1364, 0.0619)),
    ("SASRec, SlowFast-r101 end to end", (0.0976, 0.0530, None, None)),
    ("SASRec, BERT-small on titles", (0.0916, 0.0490, 0.1343, 0.0598)),
    ("ShortRec: ID, text and image, concatenated", (0.0960, 0.0516, 0.1393, 0.0625)),
    ("ShortRec with ID dropout 0.2", (0.0982, 0.0524, 0.1429, 0.0637)),
    ("CVA", (0.1001, 0.0543, 0.1433, 0.0653)),
    ("LinkedOut (arXiv 2512.16891)", (0.1015, 0.0548, None, None)),
)
"""Method and its figures; CVA is the best of its published runs."""


def citation(*, differs: str | None) -> dict[str, Any]:
    """The block ``cited`` of results.json.

    Args:
        differs: In what the data or the protocol of this run is not that of the publications.
    """
    note = (
        "Figures of publications: MicroLens-100K, leave-one-out, full ranking. None of them was "
        "measured here, and their code, tuning and seeds are their own"
    )
    if differs:
        note += f". This run cannot be compared with them: {differs}"
    return {
        "title": "Cited for comparison, not measured here",
        "note": note,
        "comparable": differs is None,
        "columns": list(COLUMNS),
        "rows": [
            {"method": method, "metrics": dict(zip(COLUMNS, values, strict=True))}
            for method, values in PUBLISHED
        ],
    }
