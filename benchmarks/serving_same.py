"""Answers of `linkedout serve` against the offline evaluation's own ranking, on a finished demo.

The trained cell that the bundle was made of is loaded with its interactions, its test's questions
are ranked by the module itself, and the same histories are asked over HTTP.

    python benchmarks/serving_same.py --out benchmarks/results/serving_same.json
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import torch
from serving_load import Client, Server

from linkedout_lightning.compare.environment import environment
from linkedout_lightning.explain.cells import find_cells, load_data, load_model
from linkedout_lightning.explain.config import ExplainConfig
from linkedout_lightning.explain.without import questions_of_test
from linkedout_lightning.serving import Bundle
from linkedout_lightning.serving.sources import digest_of

K, NEAR = 10, 1e-5


def offline(demo: Path, bundle: Path, users: int) -> list[dict[str, Any]]:
    """Histories, the ids and scores of the module's first ``K``, and the target's rank."""
    source = Bundle.open(bundle).manifest.source
    config = ExplainConfig(
        cells=(str(demo),),
        encoders=(source["encoder"],),
        backbone=source["backbone"],
        seeds=(source["seed"],),
        interactions=str(demo / "interactions.parquet"),
        store=str(demo / "features"),
    )
    (cell,) = find_cells(config)
    if digest_of(cell.folder / "best.ckpt") != source["checkpoint"]:
        sys.exit(f"{bundle} was not made of {cell.folder}")
    data = load_data(cell)
    model, ids = load_model(cell, data), data.item_ids
    found = []
    with torch.inference_mode():
        for batch in questions_of_test(data, users=users):
            scores = model.scores(batch.inputs)
            scores[:, 0] = -torch.inf
            scores.scatter_(1, batch.history, -torch.inf)
            best = scores.topk(K)
            for row in range(len(batch.users)):
                history = [ids[i - 1] for i in batch.history[row].tolist() if i]
                inputs = [ids[i - 1] for i in batch.inputs[row].tolist() if i]
                found.append(
                    {
                        "history": inputs,
                        "deny": sorted(set(history) - set(inputs)),
                        "ids": [ids[i - 1] for i in best.indices[row].tolist()],
                        "scores": best.values[row].tolist(),
                    }
                )
    return found


async def ask(port: int, users: list[dict[str, Any]]) -> dict[str, Any]:
    """Ask for all of them; what differs."""
    client = Client(port)
    same, swapped, wrong, largest = 0, 0, [], 0.0
    for user in users:
        body = {"history": user["history"], "deny": user["deny"], "k": K}
        status, answer = await client.ask("POST", "/recommend", body)
        if status != 200:
            wrong.append({"user": user, "status": status, "answer": answer.decode()[:300]})
            continue
        items = json.loads(answer)["items"]
        ids, scores = [i["id"] for i in items], [i["score"] for i in items]
        apart = max(abs(a - b) for a, b in zip(scores, user["scores"], strict=True))
        largest = max(largest, apart)
        if ids == user["ids"] and apart < NEAR:
            same += 1
        elif apart < NEAR:
            swapped += 1  # neighbours whose scores are equal up to rounding
        else:
            wrong.append({"user": user, "ids": ids, "scores": scores})
    client.close()
    return {
        "users": len(users),
        "same_ids_in_order": same,
        "ties_in_another_order": swapped,
        "wrong": wrong[:3],
        "largest_difference_of_scores": largest,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--demo", type=Path, default=Path("runs/demo"))
    parser.add_argument("--users", type=int, default=1000)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    bundle = options.demo / "bundle"
    users = offline(options.demo, bundle, options.users)
    with Server(str(bundle)) as server:
        found = asyncio.run(ask(server.port, users))
    found |= {"simulated": True, "environment": environment()}
    text = json.dumps(found, indent=2) + "\n"
    if options.out is not None:
        options.out.write_text(text)
    print(text)
    return 1 if found["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
