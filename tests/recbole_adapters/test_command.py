"""``linkedout recbole`` as a user of RecBole meets it."""

from __future__ import annotations

import json
import re

import pytest
import yaml

from linkedout_lightning import cli
from recbole_adapters import command, settings
from recbole_adapters.command import RecBoleConfig, recbole


@pytest.fixture
def files(world, tmp_path, monkeypatch):
    """A RecBole configuration of today, and the section that is added to it."""
    monkeypatch.chdir(tmp_path)
    plain = world.settings() | {"epochs": 1}
    del plain["train_neg_sample_args"], plain["checkpoint_dir"]
    (tmp_path / "plain.yaml").write_text(yaml.safe_dump(plain))
    section = {"linkedout": {"store": str(world.store), "rank": 8}}
    (tmp_path / "section.yaml").write_text(yaml.safe_dump(section))
    return tmp_path


def linkedout(*arguments, capsys):
    """Exit code, standard output and standard error of the command."""
    try:
        code = cli.main(["recbole", *arguments])
    except SystemExit as stop:
        code = stop.code
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_three_lines_of_yaml_are_the_only_difference(files, capsys):
    base = ("--model", "SASRec", "--dataset", "tiny", "--config", "plain.yaml")
    code, out, err = linkedout(*base, "--out", "ids", capsys=capsys)
    assert code == 0, err
    assert "features" not in out
    assert re.search(r"^epoch 0 training \[time", err, re.M)  # RecBole's own log
    code, out, err = linkedout(*base, "section.yaml", "--out", "vectors", capsys=capsys)
    assert code == 0, err
    first, alignment, validation, test, folder = out.strip().splitlines()
    assert first.startswith("SASRec on tiny, RecBole split LS valid_and_test, ranking full")
    assert "history not masked" in first
    assert alignment == "41 of 41 items have features"
    assert validation.startswith("validation recall@5 0.")
    assert test.startswith("test       recall@5 0.")
    assert folder == "files      vectors"
    for name in ("ids", "vectors"):
        assert {path.name for path in (files / name).iterdir()} == {
            "model.safetensors", "run.json", "items.json"
        }  # fmt: skip
    assert not (files / "saved").exists()
    assert not (files / "log_tensorboard").exists()


def test_json_is_all_that_is_printed_and_settings_win(files, world, capsys):
    code, out, err = linkedout(
        "--model", "gru4rec", "--config", "plain.yaml", "--dataset", "tiny", "--json",
        "--set", "epochs=2", "linkedout.encoder=random+id", f"linkedout.store={world.store}",
        "--set", "linkedout.rank=4", "--set=learning_rate=1e-2", "--out", "out", capsys=capsys,
    )  # fmt: skip
    assert (code, err) == (0, "")
    document = json.loads(out)
    assert document["model"] == "GRU4Rec"
    assert document["encoder"] == "random+id"
    assert len(document["curve"]) == 2
    saved = json.loads((files / "out" / "run.json").read_text())["settings"]
    assert saved["learning_rate"] == 0.01
    assert saved["linkedout"] == {
        "encoder": "random+id", "rank": 4, "store": str(world.store)
    }  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dataset", "tiny"], "required: model"),
        (["--model", "SASRek", "--dataset", "tiny"], "did you mean SASRec"),
        (["--model", "BPR", "--dataset", "tiny"], "no sequential model of RecBole"),
        (["--model", "SASRec"], "no data set: give --dataset"),
        (["--model", "SASRec", "--dataset", "nowhere"], "no dataset 'nowhere'"),
        (["--model", "SASRec", "--config", "no.yaml"], "no configuration file 'no.yaml'"),
        (["--model", "SASRec", "--config", "torn.yaml"], "cannot read the configuration file"),
        (["--model", "SASRec", "--config", "list.yaml"], "'list.yaml' holds no keys"),
        (["--set", "learning_rat=1"], "did you mean 'learning_rate'?"),
        (["--set", "linkedout.stor=x"], "did you mean 'store'?"),
        (["--set", "epochs.x=1"], "`epochs` is 1, which is no section"),
        (["--set", "linkedout.store=nowhere"], "no feature store at 'nowhere'"),
        (["--set", "ITEM_ID_FIELD=movie"], "movie"),
        (["--nproc", "0"], "`nproc` is 0"),
        (["--model", "DIN", "--config", "plain.yaml", "section.yaml"], "DIN cannot take"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(arguments, message, files, capsys):
    (files / "torn.yaml").write_text("epochs: [1,\n")
    (files / "list.yaml").write_text("- 1\n")
    if "--model" not in arguments and "required" not in message:
        arguments = ["--model", "SASRec", "--config", "plain.yaml", *arguments]
    if "--dataset" not in arguments and "no data set" not in message:
        arguments = ["--dataset", "tiny", *arguments]
    code, out, err = linkedout(*arguments, "--quiet", capsys=capsys)
    assert code == cli.EXIT_USAGE
    assert out == ""
    assert message in err
    assert "Traceback" not in err
    assert len(err.strip().splitlines()) == (3 if "required" in message else 1)


def test_a_store_of_other_items_is_refused_and_shows_both(files, tmp_path, capsys):
    from small_world import write_store

    write_store(tmp_path / "others", tuple(f"film-{number}" for number in range(5)))
    code, _, err = linkedout(
        "--model", "SASRec", "--dataset", "tiny", "--config", "plain.yaml", "--quiet",
        "--set", f"linkedout.store={tmp_path / 'others'}", capsys=capsys,
    )  # fmt: skip
    assert code == cli.EXIT_USAGE
    [sentence] = err.strip().splitlines()
    assert "no item of the dataset has features" in sentence
    assert "'film-0'" in sentence
    assert "'m" in sentence


@pytest.fixture
def asked(monkeypatch, files):
    """What the command asks the launcher for."""
    calls = []
    monkeypatch.setattr(command, "run", lambda *given, **named: calls.append((given, named)))
    return calls


@pytest.mark.parametrize(
    ("terminal", "progress", "bars"), [(True, True, None), (False, True, False), (True, False, 0)]
)
def test_bars_are_for_terminals(asked, monkeypatch, terminal, progress, bars):
    monkeypatch.setattr("sys.stderr.isatty", lambda: terminal, raising=False)
    recbole(RecBoleConfig(model="SASRec", dataset="ml-100k"), progress=progress)
    [(given, named)] = asked
    # None leaves it to the user's files, whose default is to show them.
    assert given[3].get("show_progress") == bars
    assert named["verbose"] == progress


def test_negatives_are_left_out_only_where_recbole_demands_it(asked, files):
    def negatives(model, **changes):
        recbole(RecBoleConfig(model=model, dataset="ml-100k", set=changes), progress=False)
        return asked[-1][0][3].get("train_neg_sample_args", "untouched")

    assert negatives("SASRec") is None
    assert negatives("FPMC") == "untouched"
    assert negatives("SASRec", loss_type="BPR") == "untouched"
    given = {"distribution": "uniform", "sample_num": 2}
    assert negatives("SASRec", train_neg_sample_args=given) == given


def test_dots_reach_into_sections_and_leave_the_rest():
    given = {"linkedout": {"store": "a", "rank": 8}}
    assert settings.with_pairs({"linkedout.rank": 4, "epochs": 3}, given) == {
        "linkedout": {"store": "a", "rank": 4}, "epochs": 3
    }  # fmt: skip
    assert given == {"linkedout": {"store": "a", "rank": 8}}
    assert settings.with_pairs({"eval_args.mode": "full"}, {})["eval_args"] == {
        "split": {"LS": "valid_and_test"}, "order": "TO", "mode": "full"
    }  # fmt: skip


def test_files_are_read_and_written_as_recbole_reads_them(tmp_path):
    from recbole_adapters.compat import session

    text = "a: 1e-3\nb: 5\nc: [0,60]\nd: '1e5'\ne: ~\nf: {LS: valid_and_test}\ng: .5\nh: '[0,60]'\n"
    (tmp_path / "a.yaml").write_text(text)
    ours = settings.read_files([str(tmp_path / "a.yaml")])
    settings.write_file(tmp_path / "b.yaml", ours)
    with session():
        from recbole.config import Config

        blank = Config.__new__(Config)
        blank.yaml_loader = blank._build_yaml_loader()
        for name in ("a.yaml", "b.yaml"):
            assert blank._load_config_files([str(tmp_path / name)]) == ours
    (tmp_path / "c.yaml").write_text("a: !!python/object/apply:os.getcwd []\n")
    with pytest.raises(ValueError, match="cannot read the configuration file"):
        settings.read_files([str(tmp_path / "c.yaml")])


def test_files_that_come_with_the_package_are_recbole_s(files):
    assert set(settings.ready_files()) == {"ml-100k", "linkedout"}
    paths = settings.find_files(("ml-100k", "linkedout"))
    found = settings.read_files(paths)
    settings.check_keys(found, model="SASRec")
    assert command.ItemEncoderOptions.from_section(found["linkedout"]).fuser == "moe"
    (files / "ml-100k").write_text("epochs: 1\n")  # a file of the user's own goes first
    assert settings.find_files(("ml-100k",)) == ("ml-100k",)


def test_help_explains_the_section_key_by_key(capsys):
    code, out, _ = linkedout("--help", capsys=capsys)
    assert code == 0
    assert "linkedout:" in out
    import dataclasses

    for field in dataclasses.fields(command.ItemEncoderOptions):
        assert re.search(rf"^  {field.name}\n {{6}}\S", out, re.M), field.name
