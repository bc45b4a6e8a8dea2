"""Several processes give what one gives. The oracle is the run of one process.

RecBole's faults over several processes, and the test that shows each absent: figures rounded in
each process and then averaged, averages weighed by the number of parts of a batch, padded rows
counted twice, the loss of one process printed (`test_two_processes_are_one`: the same ranks of the
same rows in the same order, figures to the last of 15 places, the same losses); a checkpoint named
by each process's clock (`test_torchrun_processes_are_joined_and_write_one_folder`); NCCL on CPUs
(all of them); gradients clipped before they are unscaled (`test_trainer.py`).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from group_worker import run_case
from safetensors.torch import load_file
from small_world import USERS, World

from linkedout_lightning.errors import ConfigError, DataError
from recbole_adapters import run, with_item_encoder

NO_DROPOUT = {"dropout_prob": 0.0, "hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0}
BPR = {"loss_type": "BPR", "train_neg_sample_args": {"distribution": "uniform", "sample_num": 2}}
FULL = {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "full"}
Found = tuple[Path, dict[str, list[Any]]]
LINKEDOUT = {"rank": 8, "queries": 1}


def cases_of(world: World) -> dict[str, dict[str, Any]]:
    """Runs by name; 44 users and 272 rows are divided by none of the sizes."""

    def case(model: str, **changes: Any) -> dict[str, Any]:
        settings = world.settings(model, **NO_DROPOUT, train_batch_size=37, eval_batch_size=15)
        store = {"store": str(world.store), **LINKEDOUT}
        if "linkedout" in changes:
            changes["linkedout"] = store | changes["linkedout"]
        return {"model": model, "settings": settings | changes}

    return {
        "SASRec": case("SASRec"),
        "SASRec-linkedout": case("SASRec", linkedout={"id_fusion": "concat", "id_dropout": 0.0}),
        "GRU4Rec": case("GRU4Rec"),
        "GRU4Rec-linkedout": case("GRU4Rec", linkedout={"balance_weight": 0.01}),
        # Batches that leave processes without a row, in training and throughout the evaluation.
        "small-batches": case(
            "GRU4Rec",
            train_batch_size=1,
            eval_batch_size=1,
            epochs=1,
            user_inter_num_interval="[0,7]",
        ),
        "negatives": case("SASRec", **BPR),
        "masked": case("SASRec", linkedout={"encoder": "id", "mask_history": True}),
        "sampled-ranking": case("GRU4Rec", eval_args=FULL | {"mode": "uni9"}),
        "labels": case(
            "GRU4Rec",
            eval_args=FULL | {"mode": "uni9"},
            metrics=["AUC", "MAE"],
            valid_metric="AUC",
        ),
        "other-metrics": case(
            "SASRec",
            metrics=["GAUC", "ItemCoverage", "AveragePopularity", "GiniIndex", "TailPercentage"],
            valid_metric="GAUC",
        ),
        "stopping": case("SASRec", epochs=12, stopping_step=0),
        "clipped": case("SASRec", clip_grad_norm={"max_norm": 0.1}, weight_decay=0.01),
        "ratio": case("SASRec", eval_args=FULL | {"split": {"RS": [0.7, 0.1, 0.2]}}),
        "masking-model": case("BERT4Rec", mask_ratio=0.3),
    }


@pytest.fixture(scope="module")
def cases(world: World) -> dict[str, dict[str, Any]]:
    return cases_of(world)


@pytest.fixture(scope="module")
def alone(
    cases: dict[str, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("alone")
    return folder, {name: run_case(case, folder / name, None) for name, case in cases.items()}


OF_THREE = ("SASRec", "small-batches", "negatives", "sampled-ranking")
"""What three processes are tried with."""


@pytest.fixture(scope="module")
def two(cases: dict[str, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Found:
    return run_together(2, cases, tmp_path_factory.mktemp("two"))


@pytest.fixture(scope="module")
def three(cases: dict[str, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Found:
    some = {name: cases[name] for name in OF_THREE}
    return run_together(3, some, tmp_path_factory.mktemp("three"))


def run_together(size: int, cases: dict[str, dict[str, Any]], folder: Path) -> Found:
    """Each case's outcome in each process of a group."""
    workers = [
        subprocess.Popen(
            [
                sys.executable,
                str(Path(__file__).with_name("group_worker.py")),
                json.dumps(cases),
                str(rank),
                str(size),
                str(folder),
            ],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
        )
        for rank in range(size)
    ]
    try:
        codes = [worker.wait(timeout=400) for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    assert codes == [0] * size
    found = {
        name: [json.loads((folder / f"{name}-{rank}.json").read_text()) for rank in range(size)]
        for name in cases
    }
    return folder, found


NAMES = [*cases_of(World(Path(), Path(), Path()))]


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", [name for name in NAMES if name != "masking-model"])
def test_two_processes_are_one(name: str, alone: tuple[Path, dict[str, Any]], two: Found) -> None:
    check_same(name, alone, two)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", OF_THREE)
def test_three_processes_are_one(
    name: str, alone: tuple[Path, dict[str, Any]], three: Found
) -> None:
    check_same(name, alone, three)


@pytest.mark.timeout(900)
def test_nothing_of_the_group_outlives_it(two: Found) -> None:
    assert [json.loads((two[0] / f"group-{rank}.json").read_text()) for rank in (0, 1)] == [
        False,  # whether the group stood after it was left; gloo's threads would abort the exit
        False,
    ]


def check_same(name: str, alone: tuple[Path, dict[str, Any]], together: Found) -> None:
    folder, expected = alone[0] / name, alone[1][name]
    other, found = together[0] / name, together[1][name]

    for one in found:  # in every process
        assert one["ranks"] == expected["ranks"]
        assert one["sum"] == pytest.approx(expected["sum"], rel=1e-4)
        assert len(one["run"]["curve"]) == len(expected["run"]["curve"])
        for point, wanted in zip(one["run"]["curve"], expected["run"]["curve"], strict=True):
            assert point["train_loss"] == pytest.approx(wanted["train_loss"], rel=1e-5)
            assert point["val"] == pytest.approx(wanted["val"], abs=1e-4)
        for figures in ("best_valid_result", "test_result"):
            assert one["run"][figures] == pytest.approx(expected["run"][figures], abs=1e-4)
        assert one["run"]["rows"] == expected["run"]["rows"]
        assert one["run"]["encodings"] == expected["run"]["encodings"]
    if expected["ranks"]:  # the same rows at the same places: the same figures
        assert found[0]["run"]["test_result"] == pytest.approx(
            expected["run"]["test_result"], abs=1e-12
        )
    # As one vector: a key's bias in attention has no gradient but rounding, which Adam blows up.
    weights, wanted = (load_file(f / "model.safetensors") for f in (other, folder))
    far = sum((weights[key].double() - wanted[key].double()).square().sum() for key in wanted)
    assert (
        far.sqrt() < 1e-3 * sum(value.double().square().sum() for value in wanted.values()).sqrt()
    )


def test_every_user_counts_once_whatever_a_model_draws(
    alone: tuple[Path, dict[str, Any]], two: Found
) -> None:
    # BERT4Rec's loss is a mean over masked places, of which processes have different numbers, so
    # that it is near that of one process and not the same.
    expected, found = alone[1]["masking-model"], two[1]["masking-model"]
    assert found[0]["ranks"][:2] == expected["ranks"][:2]
    assert len(set(found[0]["ranks"][0])) == len(found[0]["ranks"][0]) == USERS
    assert all(one["ranks"] == found[0]["ranks"] for one in found)
    first, wanted = (one["run"]["curve"][0]["train_loss"] for one in (found[0], expected))
    assert first == pytest.approx(wanted, rel=0.05)


def test_run_on_two_processes_from_a_script_without_a_main_guard(
    world: World, tmp_path: Path
) -> None:
    script = tmp_path / "script.py"
    settings = world.settings(
        **NO_DROPOUT, linkedout={"store": str(world.store), **LINKEDOUT}, train_batch_size=37
    )
    script.write_text(
        "import json\nfrom recbole_adapters import run\n"
        f"settings = json.loads({json.dumps(json.dumps(settings))})\n"
        "two = run('GRU4Rec', 'tiny', config_dict=settings, nproc=2, out='two')\n"
        "one = run('GRU4Rec', 'tiny', config_dict=settings, out='one')\n"
        "print(json.dumps([one.to_json(), two.to_json()]))\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    one, two = json.loads(done.stdout.splitlines()[-1])
    assert (one["nproc"], two["nproc"]) == (1, 2)
    assert two["test_result"] == pytest.approx(one["test_result"], abs=1e-4)
    assert two["alignment"] == one["alignment"]
    assert sorted(p.name for p in (tmp_path / "two").iterdir()) == sorted(
        p.name for p in (tmp_path / "one").iterdir()
    )
    assert done.stderr.count("epoch 0 training") == 2  # the log of one process each
    assert not (tmp_path / "saved").exists()


def test_torchrun_processes_are_joined_and_write_one_folder(world: World, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    settings = world.settings(**NO_DROPOUT, epochs=1, checkpoint_dir=str(tmp_path / "saved"))
    script.write_text(
        "import json, os\nfrom recbole_adapters import run\n"
        f"settings = json.loads({json.dumps(json.dumps(settings))})\n"
        "found = run('SASRec', 'tiny', config_dict=settings, verbose=False)\n"
        "open(os.environ['RANK'] + '.json', 'w').write(json.dumps(found))\n"
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*command, str(script)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "GLOO_SOCKET_IFNAME": "lo"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in "01")
    assert first["nproc"] == second["nproc"] == 2
    assert first["test_result"] == second["test_result"]
    assert [Path(first["folder"])] == list((tmp_path / "saved").iterdir())
    assert first["folder"] == second["folder"]


def test_first_error_reaches_the_caller_as_it_is(world: World, tmp_path: Path) -> None:
    settings = world.settings(linkedout={"store": str(world.store), "dim": -1})
    with pytest.raises(ConfigError, match=r"`linkedout\.dim` is -1"):
        run("SASRec", "tiny", config_dict=settings, nproc=2, out=tmp_path, verbose=False)
    with pytest.raises(DataError, match="no dataset 'huge'"):
        run("SASRec", "huge", config_dict=world.settings(), nproc=2, out=tmp_path, verbose=False)


def test_class_that_no_other_process_can_import_is_refused(world: World) -> None:
    made = with_item_encoder("SASRec", store=str(world.store))
    with pytest.raises(ConfigError, match="another process cannot import by that name"):
        run(made, "tiny", config_dict=world.settings(), nproc=2, verbose=False)


@pytest.mark.parametrize("victim", [signal.SIGKILL, signal.SIGINT])
def test_nobody_hangs_and_nothing_is_left(
    victim: signal.Signals, world: World, tmp_path: Path
) -> None:
    """One process killed: an error; Ctrl-C: all end. Either way soon."""
    code = (
        "import json, signal, sys\nfrom recbole_adapters import run\n"
        # A shell's background jobs ignore SIGINT, and so would what they start.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "try:\n    run('SASRec', 'tiny', config_dict=json.loads(sys.argv[1]), nproc=2, "
        "out=sys.argv[2], verbose=False)\n"
        "except RuntimeError as error:\n    print('SAID', error)\n"
        "except KeyboardInterrupt:\n    print('INTERRUPTED')\n"
    )
    settings = world.settings(epochs=100000, stopping_step=100000, eval_step=5)
    with subprocess.Popen(
        [sys.executable, "-c", code, json.dumps(settings), str(tmp_path / "run")],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        stdout=subprocess.PIPE,
        text=True,
    ) as caller:
        limit = threading.Timer(240, caller.kill)
        limit.start()
        while not (tmp_path / "run" / "model.safetensors").is_file():  # they are in training
            assert caller.poll() is None
            time.sleep(0.2)
        children = _children(caller.pid)
        assert len(children) == 2
        os.kill(children[1] if victim == signal.SIGKILL else caller.pid, victim)
        said, _ = caller.communicate()
        limit.cancel()
    assert caller.returncode == 0  # and not what the limit gives
    if victim == signal.SIGKILL:
        assert "SAID process 1 of 2 was ended by SIGKILL, perhaps for want of memory" in said
    else:
        assert "INTERRUPTED" in said
    assert not any(Path(f"/proc/{child}").exists() for child in children)


def _children(pid: int) -> list[int]:
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            found.append(int(status.parent.name))
    return sorted(found)
