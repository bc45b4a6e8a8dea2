"""What was found in a store, for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from linkedout_lightning.wording import in_bytes

_IDS, _REASON = 5, 90
_DEAD = {
    "no_slot": "every slot is masked",
    "zero": "a slot holds only zeros",
    "constant": "a slot holds one number throughout",
    "norm": "a norm is far from usual",
}


def describe_store(facts: Mapping[str, Any]) -> str:
    """A page on the facts of :func:`linkedout_lightning.inspection.store.store_facts`."""
    lines = [f"feature store {facts['path']}", *_content(facts), *_disk(facts)]
    if "layers" in facts:
        lines += [*_layers(facts), *_slots(facts), *_rows(facts)]
    return "\n".join(lines)


def _content(facts: Mapping[str, Any]) -> list[str]:
    spec, failures = facts["spec"], facts["failures"]
    shape = f"{len(spec['layers'])} layers x {len(spec['slots'])} slots x {spec['hidden_size']}"
    revision = f" at {spec['revision'][:24]}" if spec["revision"] else ""
    lines = [
        f"  items       {facts['items']:,}, each {shape} {spec['dtype']} "
        f"({in_bytes(facts['bytes']['per_item'])})",
        f"  model       {spec['model']}{revision}",
        f"  prompt      {spec['prompt']!r}",
    ]
    if spec["sampler"]:
        settings = ", ".join(f"{k} {v}" for k, v in spec["sampler"].items())
        lines.append(f"  sampler     {settings[:100]}")
    lines.append(f"  failures    {failures['count']:,}")
    if failures["with_older_features"]:
        lines[-1] += f", {failures['with_older_features']:,} of them with features of before"
    lines += [
        f"    {count:>8,} x {reason[:_REASON]}" for reason, count in failures["reasons"].items()
    ]
    if more := failures["distinct_reasons"] - len(failures["reasons"]):
        lines.append(f"             and {more:,} other reasons")
    return lines


def _disk(facts: Mapping[str, Any]) -> list[str]:
    sizes, versions, pieces = facts["bytes"], facts["versions"], facts["pieces"]
    lines = [
        f"  version     {versions['shown']}; {versions['count']:,} kept since "
        f"{versions['oldest_written']}",
        f"  on disk     {in_bytes(sizes['on_disk'])} in {pieces:,} "
        f"piece{'s' if pieces != 1 else ''}",
    ]
    unneeded = [
        (sizes["past"], "for past versions alone"),
        (sizes["loose"], "in files of no version (an append that runs, or was killed)"),
        (sizes["beside"], "beside the table (how extractions share their work)"),
        (
            sizes["unseen_in_current"],
            f"at most in {sizes['superseded_rows']:,} replaced and {sizes['deleted_rows']:,} "
            "deleted rows",
        ),
    ]
    lines += [f"    {in_bytes(count):>10} {what}" for count, what in unneeded if count]
    return lines


def _layers(facts: Mapping[str, Any]) -> list[str]:
    lines = [
        f"  layers, over {facts['sample']:,} items (mean over their slots)",
        "       layer   norm: mean        5%    median       95%   cosine of two  effective rank",
    ]
    for row in facts["layers"]:
        norm = row["norm"]
        cosine = "" if row["mean_cosine"] is None else f"{row['mean_cosine']:.3f}"
        rank = f"{row['effective_rank']:.1f} of {row['rank_limit']}"
        lines.append(
            f"    {row['layer']:>8} {norm['mean']:>12.4g} {norm['q05']:>9.4g} "
            f"{norm['median']:>9.4g} {norm['q95']:>9.4g} {cosine:>15} {rank:>15}"
        )
    return lines


def _slots(facts: Mapping[str, Any]) -> list[str]:
    full = sum(share == 1 for share in facts["slots"].values())
    lines = [f"  slots, share of the items that have them ({full} of {len(facts['slots'])} always)"]
    return lines + [
        f"    {share:>8.1%} {slot}" for slot, share in facts["slots"].items() if share < 1
    ]


def _rows(facts: Mapping[str, Any]) -> list[str]:
    rows = facts["rows"]
    looked = "all" if rows["all"] else f"{rows['looked_at']:,} of {facts['items']:,}"
    lines = [f"  rows, {looked} looked at"]
    for name, words in _DEAD.items():
        found = rows["dead"][name]
        lines.append(f"    {found['count']:>8,} where {words}{_ids(found['examples'])}")
    twice = rows["duplicates"]
    lines.append(
        f"    {twice['items']:>8,} equal in every bit to another, in {twice['groups']:,} groups"
    )
    lines += [f"             {_some(group)}" for group in twice["examples"][:_IDS]]
    near = rows["near_duplicates"]
    lines.append(
        f"    {near['pairs']:>8,} pairs with a cosine of {near['cosine']} or more, "
        f"among {near['among']:,} items"
    )
    lines += [
        f"             {_some(pair['items'])} ({pair['cosine']:.4f})"
        for pair in near["examples"][:_IDS]
    ]
    return lines


def _ids(examples: list[dict[str, Any]]) -> str:
    shown = []
    for example in examples[:_IDS]:
        words = example["item_id"]
        if "norm" in example:
            words += f" ({example['norm']:.3g} in layer {example['layer']}, "
            words += f"{example['usual']:.3g} is usual)"
        shown.append(words)
    more = ", …" if len(examples) > _IDS else ""
    return f": {', '.join(shown)}{more}" if shown else ""


def _some(item_ids: list[str]) -> str:
    return ", ".join(item_ids[:_IDS]) + (", …" if len(item_ids) > _IDS else "")
