"""What a cell of ``linkedout compare --engine recbole`` depends on."""

from __future__ import annotations

import importlib.metadata
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from linkedout_lightning.compare.files import absolute, content_digest, digest
from linkedout_lightning.compare.names import EncoderName
from linkedout_lightning.compare.tunables import LATER, OF_ENCODER, OF_TRAINING
from linkedout_lightning.errors import ConfigError, DataError
from recbole_adapters.compat import require_recbole, session
from recbole_adapters.launcher import Request
from recbole_adapters.options import SECTION
from recbole_adapters.settings import (
    default_negatives,
    find_files,
    read_files,
    width_key,
    write_file,
)
from recbole_adapters.slots import check_adaptable, find_model

if TYPE_CHECKING:
    from linkedout_lightning.compare.config import CompareConfig

__all__ = ["TUNABLE", "complete", "inputs", "protocol", "settings"]

TUNABLE = (*OF_ENCODER, *OF_TRAINING, "recbole_settings")
"""Settings that `overrides` may change."""

_OURS = {
    "lr": "learning_rate",
    "batch_size": "train_batch_size",
    "eval_batch_size": "eval_batch_size",
    "epochs": "epochs",
    "patience": "stopping_step",
    "max_len": "MAX_ITEM_LIST_LENGTH",
}
"""Fields of the comparison and the keys of RecBole that they set where they are given."""
_TAKEN = {
    "valid_metric": "monitor",
    "seed": "seeds",
    "model": "backbones",
    "dataset": "dataset",
    "checkpoint_dir": "out",
    "use_gpu": "accelerator",
    "gpu_id": "devices",
    SECTION: "encoders and their settings",
}
"""Keys of RecBole that a comparison sets by a field of its own."""
_NATIVE = (
    "interactions", "preset", "format", "split", "duplicates", "valid_share", "test_share",
    "cold_share", "split_seed", "min_len", "user_column", "item_column", "time_column", "blocks",
    "heads", "gru_layers", "loss", "negatives", "weight_decay", "dropout", "gradient_clip",
    "precision", "layers", "slots", "id_fusion", "cold_calibration",
    "cold_budget", "candidates",
)  # fmt: skip
_SPELLED = {"SASRec": "sasrec", "GRU4Rec": "gru4rec"}  # as the native engine has them
_METRICS = {"HR": "Hit", "NDCG": "NDCG", "MRR": "MRR"}
_SECTION_KEYS = {
    "rank": "rank", "compressor": "compressor", "queries": "queries", "top_k": "top_k",
    "temperature": "temperature", "balance_weight": "balance_weight", "id_dropout": "id_dropout",
    "expert_dropout": "dropout", "whitening_power": "whitening_power",
    "output_norm": "output_norm", "missing": "missing",
}  # fmt: skip


def complete(config: CompareConfig) -> dict[str, Any]:
    """RecBole's spelling of the models, and paths of the files.

    Args:
        config: The comparison.

    Raises:
        ConfigError: No such model, one that cannot take an encoder, or a field that this engine
            does not have.
        MissingExtraError: RecBole is not installed.
    """
    require_recbole()
    _refuse_native(config)
    files = find_files(config.recbole_config)
    given = read_files(files)
    if SECTION in given:
        raise ConfigError(
            f"`recbole_config` has a `{SECTION}:` section, but a comparison makes each encoder "
            "from its own options; leave the section out and give `store`, `encoders`, `rank` and "
            "the like"
        )
    _refuse_taken(config.recbole_settings, "recbole_settings")
    dataset = config.dataset or given.get("dataset")
    if not dataset:
        raise ConfigError(
            "`dataset` is not given; name one, such as ml-100k, which RecBole brings, or a folder "
            "in `data_path` that holds NAME/NAME.inter"
        )
    backbones = tuple(_spelled(name) for name in config.backbones)
    if len(set(backbones)) < len(backbones):
        raise ConfigError(f"`backbones` names something twice: {', '.join(config.backbones)}")
    if any(name != "id" and config.encoder(name).trains for name in config.encoders):
        for name in backbones:
            check_adaptable(find_model(name))
    if config.accelerator not in ("auto", "cpu", "gpu", "cuda"):
        raise ConfigError(
            f"`accelerator` is {config.accelerator!r}; RecBole knows cpu and gpu, or auto for a "
            "GPU where there is one"
        )
    return {
        "recbole_config": files,
        "dataset": str(dataset),
        "backbones": backbones,
        "overrides": _overrides(config),
    }


def inputs(config: CompareConfig) -> dict[str, Any]:
    """Digest of the data set's files and RecBole's version; checks the configuration of each model.

    Raises:
        ConfigError: RecBole refuses the configuration, or its evaluation is no full ranking.
        DataError: No such data set.
    """
    found: dict[str, Any] = {"recbole": importlib.metadata.version("recbole")}
    for backbone in config.backbones:
        read = _read(config, backbone)
        _check_evaluation(read)
        folder = Path(read["data_path"])
        files = sorted(folder.glob(f"{config.dataset}.*"))
        if not any(file.suffix == ".inter" for file in files):
            raise DataError(
                f"no dataset {config.dataset!r}: there is no .inter file in {str(folder)!r}; name "
                "the folder above the dataset's own by `data_path` in `recbole_settings`, or take "
                "ml-100k, which RecBole brings"
            )
        found["interactions"] = digest({file.name: content_digest(file) for file in files})
    return found


def settings(
    config: CompareConfig, encoder: str, backbone: str, store: str | None
) -> dict[str, Any]:
    """All that decides a cell's result: RecBole's configuration and the encoder's section."""
    name = config.encoder(encoder)
    chosen = config.settings(encoder, backbone)
    if not name.trains:  # it reads the data alone, which are the same for all models
        backbone = config.backbones[0]
        chosen |= dict.fromkeys(("dim", *_OURS)) | {"max_len": config.max_len}
    recbole = _recbole(config, backbone, chosen)
    path, device = recbole.pop("data_path", None), recbole.pop("gpu_id", None)
    named = name.base in config.stores
    return {
        "model": find_model(backbone).__name__,
        "dataset": config.dataset,
        "recbole": recbole,
        "section": _section(name, chosen, named=named, mask_history=config.mask_history),
        "named_store": named,
        "ks": config.ks,
        "monitor": config.monitor,
        "data_path": str(Path(path).absolute()) if path else None,
        "store": absolute(store) if store else None,
        "accelerator": config.accelerator,
        "gpu_id": device if config.devices == 1 else None,  # else each process sees one GPU
        "keep_checkpoints": config.keep_checkpoints,
    }


def protocol(config: CompareConfig) -> dict[str, Any]:
    """RecBole's split, rows and settings, with what the models make of them."""
    reads = {backbone: _read(config, backbone) for backbone in config.backbones}
    first = next(iter(reads.values()))
    arguments = first["eval_args"]
    split = ", ".join(f"{key} {value}" for key, value in arguments["split"].items())
    split = f"{split}, order {arguments['order']}"
    longest = first["MAX_ITEM_LIST_LENGTH"]
    history = (
        "the items that the user had before left out (RecBole's own protocol keeps them in)"
        if config.mask_history
        else "the items that the user had before kept in, as RecBole has it"
    )
    lines = [
        f"Engine: RecBole {importlib.metadata.version('recbole')}, its models, trainer and split.",
        f"Split: RecBole's {split}; one row a prefix, at most {longest} inputs.",
    ]
    for backbone, read in reads.items():
        width = width_key(backbone)
        lines.append(
            f"{find_model(backbone).__name__}: {width} {read[width]}, loss "
            f"{read['loss_type'] or 'its own'}, {read['learner']} at {read['learning_rate']:g} "
            f"with weight decay {read['weight_decay']:g}, batches of {read['train_batch_size']} "
            f"rows, at most {read['epochs']} epochs, stopping_step {read['stopping_step']}."
        )
    decimals = first["metric_decimal_place"]
    return {
        "preset": None,
        "split": split,
        "rows": "one a prefix",
        "max_len": longest,
        "min_len": None,
        "mask_history": config.mask_history,
        "data": config.dataset,
        "lines": lines,
        "settings": {name: getattr(config, name) for name in TUNABLE},
        "recbole": {
            backbone: _recbole(config, backbone, config.settings("", backbone))
            for backbone in config.backbones
        },
        "ranking": f"the whole catalogue by RecBole's evaluation, {history}, ties against the "
        "model, one target a row, NDCG = 1/log2(rank + 1); figures from the ranks, not rounded",
        "choice": f"the epoch with the best validation {config.monitor}, rounded to {decimals} "
        "decimals, the last of equals, which is RecBole's rule; the test is read once",
    }


def _recbole(config: CompareConfig, backbone: str, chosen: Mapping[str, Any]) -> dict[str, Any]:
    """RecBole's settings of a cell: the files', what fields of the comparison set, the user's."""
    merged, own = read_files(config.recbole_config), chosen["recbole_settings"]
    for ours, key in {**_OURS, "dim": width_key(backbone)}.items():
        value = chosen[ours] if ours in chosen else getattr(config, ours)
        if value is None:
            continue
        if ours == "patience" and value == 0:  # RecBole has no word for never
            value = max(merged.get("epochs", 300), 300)
        if own.get(key, value) != value:
            raise ConfigError(
                f"`{ours}` is {value}, and `{key}` is {own[key]} in `recbole_settings`, which for "
                f"{find_model(backbone).__name__} is the same; give one of the two"
            )
        merged[key] = value
    merged |= own
    metric, _, k = config.monitor.partition("@")
    merged["metrics"] = _with(merged.get("metrics"), _METRICS.values())
    cuts = _listed(merged.get("topk"))
    if not all(isinstance(cut, int) for cut in cuts):
        raise ConfigError(f"`topk` is {merged['topk']!r}; give RecBole one integer or a list")
    merged["topk"] = sorted({*cuts, *config.ks, int(k)})
    merged["valid_metric"] = f"{_METRICS[metric]}@{k}"
    for name in ("model", "dataset", "seed", "checkpoint_dir", "show_progress"):
        merged.pop(name, None)
    return merged | default_negatives(backbone, merged)


def _section(
    name: EncoderName, chosen: Mapping[str, Any], *, named: bool, mask_history: bool
) -> dict[str, Any]:
    """The ``linkedout:`` section of a row, without the paths and the seed."""
    section: dict[str, Any] = {"encoder": name.name, "mask_history": mask_history}
    if name.base == "id" or not name.trains:
        return section | {"encoder": "id"}
    if name.base == "id-dropout":
        # A section without the key is that of cells from before IDs could be normed.
        norm = chosen["output_norm"]
        normed = {} if norm == "none" else {"output_norm": norm}
        return section | {"id_dropout": chosen["item_dropout"]} | normed
    if named:  # the encoder is the same, the features are others
        section["encoder"] = "linkedout+id" if name.with_id else "linkedout"
    return section | {theirs: chosen[ours] for ours, theirs in _SECTION_KEYS.items()}


def _read(config: CompareConfig, backbone: str) -> Any:
    """RecBole's whole configuration of a model, its defaults too."""
    from recbole_adapters.running import read_config

    # A file, as the cell has it: RecBole evaluates text that is handed over in another way.
    with session(), tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "recbole.yaml"
        write_file(file, _recbole(config, backbone, config.settings("", backbone)))
        return read_config(
            Request(
                model=find_model(backbone).__name__,
                dataset=config.dataset,
                config_files=(str(file),),
            )
        )


def _check_evaluation(read: Any) -> None:
    arguments = read["eval_args"]
    modes = arguments["mode"]
    if set(modes.values()) != {"full"}:
        raise ConfigError(
            f"`eval_args.mode` is {modes}; a comparison ranks the whole catalogue: give full"
        )
    if (arguments["split"] or {}).get("LS", "valid_and_test") != "valid_and_test":
        raise ConfigError(
            f"`eval_args.split` is {arguments['split']}; a comparison needs rows to validate and "
            "rows to test: give LS: valid_and_test"
        )


def _refuse_native(config: CompareConfig) -> None:
    defaults = {name: field.default for name, field in config.__dataclass_fields__.items()}
    for name in _NATIVE:
        if getattr(config, name) != defaults[name]:
            instead = "RecBole's own key in `recbole_settings`"
            if name == "interactions":
                instead = "`dataset`"
            elif name in LATER:
                instead = "none: of these, `linkedout recbole` alone has layers and id_fusion"
            raise ConfigError(
                f"`{name}` is {getattr(config, name)!r}, which the native engine reads; with the "
                f"engine recbole give {instead}"
            )


def _refuse_taken(given: Any, where: str) -> None:
    if not isinstance(given, Mapping):
        raise ConfigError(f"`{where}` is {given!r}; give RecBole's settings by name")
    for key in given:
        if key in _TAKEN:
            raise ConfigError(f"`{where}` has {key!r}, which `{_TAKEN[key]}` sets in a comparison")


def _overrides(config: CompareConfig) -> dict[str, Any]:
    """The overrides, models in their keys spelled as in `backbones`."""
    spelled = {name.lower(): _spelled(name) for name in config.backbones}
    found = {}
    for key, changes in config.overrides.items():
        encoder, slash, backbone = key.rpartition("/")
        if isinstance(changes, Mapping) and "recbole_settings" in changes:
            _refuse_taken(changes["recbole_settings"], f"overrides[{key!r}].recbole_settings")
        found[f"{encoder}{slash}{spelled.get(backbone.lower(), backbone)}"] = changes
    return found


def _spelled(backbone: str) -> str:
    name = find_model(backbone).__name__
    return _SPELLED.get(name, name)


def _with(given: Any, wanted: Iterable[str]) -> list[str]:
    names = _listed(given)
    return names + [name for name in wanted if name.lower() not in {n.lower() for n in names}]


def _listed(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]
