"""What the workers of an engine do, without an engine."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from clips import write_catalogue

from linkedout_lightning.errors import ConfigError, MissingExtraError, StoreSpecError
from linkedout_lightning.store import FeatureStore
from linkedout_lightning.tap.cutting import cut_units
from linkedout_lightning.tap.engines.decoding import DecodeStage
from linkedout_lightning.tap.engines.extracting import TapStage
from linkedout_lightning.tap.engines.options import EngineOptions, Workers, workers_for
from linkedout_lightning.tap.engines.rows import (
    Decoded,
    blocks_of,
    decoded_of,
    decoded_rows,
    done_of,
    unit_rows,
    units_of,
)
from linkedout_lightning.tap.extract import ExtractConfig, extract
from linkedout_lightning.tap.items import Item, read_items
from linkedout_lightning.tap.job import decide
from linkedout_lightning.tap.units import Unit
from linkedout_lightning.video import Frames


def frames(count: int, seed: int) -> Frames:
    data = np.random.default_rng(seed).integers(0, 256, (count, 4, 6, 3), dtype=np.uint8)
    return Frames(data, np.arange(count) / 3, fps=3.0, duration=count / 3, backend="made up")


def test_a_unit_travels_whole() -> None:
    items = (Item("ä", "a.mp4", {"title": "x\n\0y"}, "a.jpg"), Item("b"), Item("\udcff"))
    table = unit_rows([Unit(7, items, watch=True)])
    assert table.num_rows == 1
    (unit,) = units_of(table)
    assert (unit.number, unit.items, unit.watch) == (7, items, True)

    seen = [{"video": frames(2, 0), "cover": frames(1, 1)}, {}]
    sent = Decoded(
        7, list(zip(items, seen, strict=False)), {"\udcff": "why"}, {"b": "s"}, True, 0.5
    )
    table = decoded_rows([sent])
    assert table.num_rows == 1
    (back,) = decoded_of(table)
    assert (back.number, back.failures, back.stamps, back.watch, back.seconds) == (
        (7, {"\udcff": "why"}, {"b": "s"}, True, 0.5)
    )
    assert [item for item, _ in back.items] == list(items[:2])
    assert back.items[1][1] == {}
    for name, given in seen[0].items():
        found = back.items[0][1][name]
        assert np.array_equal(found.data, given.data)
        assert found.data.flags.writeable
        assert np.array_equal(found.timestamps, given.timestamps)
        assert (found.fps, found.backend) == (given.fps, given.backend)
    assert decoded_of(decoded_rows([Decoded(1, [])]))[0].items == []


def test_texts_travel_together() -> None:
    def unit(number: int, count: int, watch: bool) -> Unit:
        return Unit(number, tuple(Item(f"{number}.{i}") for i in range(count)), watch)

    units = [unit(0, 32, True), unit(1, 4, True), *(unit(n, 32, False) for n in range(2, 80))]
    blocks = list(blocks_of(units, workers=2))
    assert [u for block in blocks for u in block] == units
    assert [len(block) for block in blocks[:3]] == [1, 1, 312 // 32]
    assert len(blocks) == 2 + 9
    assert [len(block) for block in blocks_of(units[:1] + units[-2:], workers=8)] == [1, 1, 1]


def test_workers_that_decode_import_no_torch() -> None:
    program = (
        "import sys, linkedout_lightning.tap.engines.decoding\n"
        "print([m for m in ('torch', 'lightning', 'transformers', 'lance') if m in sys.modules])"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert ran.stdout.strip() == "[]"


@pytest.fixture(scope="module")
def config(tiny_video_llm, tmp_path_factory: pytest.TempPathFactory) -> ExtractConfig:
    folder = tmp_path_factory.mktemp("engine")
    table, videos = write_catalogue(folder, videos=9, texts=5)
    return ExtractConfig(
        model=str(tiny_video_llm("idefics3")),
        items=str(table),
        videos=str(videos),
        out=str(folder / "plain"),
        layers=(0, 2, -1),
        prompt="About {title}",
        frames=2,
        size=None,
        store_dtype="float32",
        workers=1,
        batch_size=2,
        device="cpu",
    )


def test_both_stages_make_what_a_plain_job_makes(config: ExtractConfig, tmp_path: Path) -> None:
    assert extract(config, progress=False).exit_code == 3
    wanted = FeatureStore.open(config.out)

    here = replace(config, out=str(tmp_path / "features"))
    items = read_items(here.items, here.videos)
    job = decide(here, items, weights=False)
    assert next(job.tap.parameters()).device.type == "meta"  # the one that asks needs no weights
    assert job.spec == wanted.spec
    units = cut_units(
        job.work.todo, job.tap.prepare, sources=job.tap.sources, batch_size=2, batch_tokens=16_384
    )
    decoder = DecodeStage(job.sampler, sources=job.tap.sources, columns=job.tap.columns)
    worker = TapStage(here, job.sampler)
    blocks = list(blocks_of(units, workers=1))
    assert [unit for block in blocks for unit in block] == units
    sent = [decoder(unit_rows(block)) for block in blocks]
    decoder.close()
    back = [done for table in sent for done in done_of(worker(table))]

    assert [done.number for done in back] == [unit.number for unit in units]
    assert sum(done.done for done in back) == len(wanted)
    assert {item for done in back for item in done.failures} == {"v1", "v4", "empty"}
    assert sum(done.tokens for done in back) > 0
    assert {"decode", "prepare", "model", "write"} <= back[0].seconds.keys()
    store = FeatureStore.open(here.out)
    assert store.item_ids == wanted.item_ids
    assert store.failures == wanted.failures
    assert store.fingerprints() == wanted.fingerprints()
    found, truth = store.get(wanted.item_ids), wanted.get(wanted.item_ids)
    assert torch.equal(found.features, truth.features)
    assert torch.equal(found.mask, truth.mask)

    # A worker in the place of one that was lost after it had committed: reported, not done again.
    version = store.version
    (again,) = done_of(TapStage(here, job.sampler)(sent[0]))
    assert (again.done, set(again.failures)) == (back[0].done, set(back[0].failures))
    assert again.tokens == 0
    assert store.refresh().version == version


def test_a_worker_with_another_model_writes_nothing(config: ExtractConfig, tmp_path: Path) -> None:
    here = replace(config, out=str(tmp_path / "features"))
    job = decide(here, read_items(here.items, here.videos), weights=False)
    worker = TapStage(replace(here, layers=(1, 2)), job.sampler)
    with pytest.raises(StoreSpecError, match="layers"):
        worker(decoded_rows([Decoded(0, [(Item("t"), {})])]))
    assert len(FeatureStore.open(here.out)) == 0


def test_options_say_what_is_wrong() -> None:
    assert EngineOptions.parse({"actors": 2.0}).actors == 2
    for given, said in (
        ({"actor": 2}, "actors, gpus_per_actor"),
        ({"actors": 0}, "actors=0"),
        ({"decoders": 1.5}, "decoders=1.5"),
        ({"gpus_per_actor": -1}, "0 or more"),
    ):
        with pytest.raises(ConfigError, match=said):
            ExtractConfig(model="m", out="o", engine="ray", engine_options=given)
    with pytest.raises(ConfigError, match="one of local, ray"):
        ExtractConfig(model="m", out="o", engine="spark")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="`model` alone"):
        extract(
            ExtractConfig(model="m", out="o", videos=str(Path(__file__).parent), engine="ray"),
            tap=object(),  # type: ignore[arg-type]
        )


def test_who_does_what() -> None:
    def sized(*, device: str = "auto", **options: float) -> Workers:
        return workers_for(EngineOptions.parse(options), device=device, cores=64, gpus=8)

    assert sized() == Workers(actors=8, gpus=1, cpus=1, decoders=56, decoder_cpus=1)
    assert sized(gpus_per_actor=0.5).actors == 16
    assert sized(gpus_per_actor=2, cpus_per_decoder=4).decoders == 15
    assert sized(device="cpu") == Workers(2, 0, 1, 62, 1)
    assert sized(decoders=16, cpus_per_actor=2).cores == 8 * 2 + 16
    for options in ({"actors": 9}, {"decoders": 80}):
        with pytest.raises(ConfigError, match="the engine has 64 and 8"):
            sized(**options)
    with pytest.raises(ConfigError, match="give auto, cpu or cuda"):
        sized(device="cuda:1")
    on_two_cores = workers_for(EngineOptions(), device="auto", cores=2, gpus=0, decoders=2)
    assert on_two_cores == Workers(actors=2, gpus=0, cpus=1, decoders=2, decoder_cpus=1)
    with pytest.raises(ConfigError, match="finds none"):
        workers_for(EngineOptions(), device="cuda", cores=2, gpus=0)


def test_without_ray_it_says_what_to_install(config, tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    here = replace(config, out=str(tmp_path / "features"), engine="ray")
    with pytest.raises(MissingExtraError, match=r"linkedout-lightning\[ray\]"):
        extract(here, progress=False)


def test_a_cluster_that_does_not_answer(config, tmp_path, monkeypatch) -> None:
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    here = replace(config, out=str(tmp_path / "features"), engine="ray")
    with pytest.raises(ConfigError, match=r"127\.0\.0\.1:1.*nobody answers"):
        extract(here, progress=False)
