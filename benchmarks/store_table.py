"""The figures of store.py as docs/storage.md shows them.

python benchmarks/store_table.py benchmarks/results/store.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def table(results: dict[str, Any]) -> str:
    """The figures in Markdown."""
    lines = [
        "| what | store | plain file | times the plain way | CPU ms, store / plain |",
        "| --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {row['what']} | {row['store_ms']:.0f} ms ({row['store_mb_s']:.0f} MB/s) "
        f"| {row['plain_ms']:.1f} ms ({row['plain_mb_s']:.0f} MB/s) "
        f"| {row['times_the_plain_way']} | {row['store_cpu_ms']:.0f} / {row['plain_cpu_ms']:.0f} |"
        for row in results["against_plain_files"]
    ]
    small, deletes = results["small_appends"], results["deletes"]
    before, after = small["before_compaction"], small["after_compaction"]
    lines += [
        "",
        f"- {results['writers']['what']}: {results['writers']['together_to_alone']} times the "
        f"items a second of one process, {results['writers']['together']['lost']} lost.",
        f"- {small['what']}: a gather of 512 takes {before['gather_ms']:.0f} ms and opening "
        f"{before['open_ms']:.0f} ms; after {small['compaction_s']:.1f} s of compaction "
        f"{after['gather_ms']:.0f} and {after['open_ms']:.0f} ms.",
        f"- {deletes['what']}: {deletes['delete_ms']:.0f} ms and {deletes['purge_s']:.1f} s, after "
        f"which {deletes['bytes_on_disk_to_bytes_of_features']} bytes are on disk for each of the "
        "features.",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(json.loads(Path(sys.argv[1]).read_text())))
