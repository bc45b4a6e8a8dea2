"""Loading any Hugging Face (video) language model and its processor, from safetensors or GGUF."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from linkedout_lightning.errors import ConfigError, MissingExtraError
from linkedout_lightning.tap.anatomy import reading_part
from linkedout_lightning.tap.identity import digest_of_files
from linkedout_lightning.tap.progress import bars_of_transformers

_CLASSES = ("AutoModelForMultimodalLM", "AutoModelForImageTextToText", "AutoModelForCausalLM")


@dataclass(frozen=True)
class Loaded:
    """A model as loaded.

    Attributes:
        model: The model, with its head; of one that also speaks, the part that reads.
        processor: Its processor, or its tokenizer if it only reads text.
        name: Hub name, or the folder's name.
        revision: The hub's commit, or a digest of the weight files.
    """

    model: Any
    processor: Any
    name: str
    revision: str


def load_pretrained(
    name_or_path: str,
    *,
    revision: str | None = None,
    dtype: Any = "auto",
    device_map: Any = None,
    attn_implementation: str | None = None,
    gguf_file: str | None = None,
    trust_remote_code: bool = False,
    processor: Any = None,
    progress: bool = True,
    **model_kwargs: Any,
) -> Loaded:
    """Load a model by hub name or folder; weights are never unpickled.

    Args:
        name_or_path: Hub name, or a folder.
        revision: Branch, tag or commit on the hub.
        dtype: A torch type or its name; ``"auto"`` keeps the checkpoint's.
        device_map: Passed on to transformers.
        attn_implementation: ``"sdpa"``, ``"flash_attention_2"``, ``"eager"``…
        gguf_file: Name of the GGUF file in the folder or repository, for text models.
        trust_remote_code: Whether code from the repository may run.
        processor: A processor or tokenizer to use in place of the repository's own.
        progress: Let downloading and loading draw their progress bars.
        **model_kwargs: Passed on to the model's ``from_pretrained``.

    Raises:
        ConfigError: If the repository holds no language model, or no safe weights.
        MissingExtraError: If transformers is not installed.
    """
    try:
        import transformers
    except ImportError as error:
        raise MissingExtraError("transformers", "video", "loading a language model") from error

    with bars_of_transformers(progress):
        where: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
        if gguf_file is not None:
            where["gguf_file"] = gguf_file
        config = load_config(transformers, name_or_path, where=where)
        auto = auto_class(transformers, config, name_or_path)
        optional = {"device_map": device_map, "attn_implementation": attn_implementation}
        given = {k: v for k, v in optional.items() if v is not None} | model_kwargs
        model = _model(transformers, auto, name_or_path, dtype=dtype, where=where, given=given)
        if processor is None:
            processor = load_processor(transformers, auto, name_or_path, where=where)
        return Loaded(reading_part(model), processor, *identity(name_or_path, gguf_file, revision))


def _model(
    transformers: Any, auto: str, name: str, *, dtype: Any, where: dict[str, Any], given: Any
) -> Any:
    formats: dict[str, Any] = {}
    if "gguf_file" not in where:
        formats["use_safetensors"] = True
    elif hasattr(transformers, "GgufConfig"):
        # Kernels for packed weights compute in float32 and serve one row at a time; a batch is
        # faster through dense ones, and their values are the same.
        formats["quantization_config"] = transformers.GgufConfig(dequantize=True)
    try:
        return getattr(transformers, auto).from_pretrained(
            name, dtype=dtype, **where, **(formats | given)
        )
    except OSError as error:
        raise ConfigError(
            f"cannot load the weights of {name!r}: {error} (only safetensors and GGUF are read, as "
            "other formats can run code)"
        ) from error
    except ImportError as error:
        raise _missing_package(name, error) from error


def load_config(transformers: Any, name: str, *, where: dict[str, Any]) -> Any:
    """The model's configuration.

    Raises:
        ConfigError: There is none, it is of no known type, or it needs code that may not run.
    """
    try:
        return transformers.AutoConfig.from_pretrained(name, **where)
    except (OSError, ValueError) as error:
        if "trust_remote_code" in str(error):
            raise ConfigError(
                f"{name!r} brings code of its own, and none is run unless it is asked for: give "
                "trust_remote_code=True if you trust that repository"
            ) from error
        raise ConfigError(f"cannot read the configuration of {name!r}: {error}") from error


def load_processor(transformers: Any, auto: str, name: str, *, where: dict[str, Any]) -> Any:
    """The processor, or the tokenizer of a model that only reads text.

    Raises:
        ConfigError: It needs a package that is not installed.
    """
    text_only = auto == "AutoModelForCausalLM"
    kind = transformers.AutoTokenizer if text_only else transformers.AutoProcessor
    try:
        return kind.from_pretrained(name, **where)
    except ImportError as error:
        raise _missing_package(name, error) from error


def _missing_package(name: str, error: ImportError) -> ConfigError:
    words = " ".join(str(error).split())
    return ConfigError(f"{name!r} needs a package that is not installed: {words}")


def identity(name: str, gguf_file: str | None, revision: str | None) -> tuple[str, str]:
    """A model's name and revision for the fingerprint."""
    folder = Path(name)
    if folder.is_dir():
        return folder.resolve().name, digest_of_files(folder, gguf_file)
    return name, _commit(name, gguf_file, revision)


def auto_class(transformers: Any, config: Any, name: str) -> str:
    """Which of transformers' auto classes makes the model.

    Raises:
        ConfigError: None of them: the repository holds no language model.
    """
    remote = getattr(config, "auto_map", None) or {}
    for auto in _CLASSES:
        mapping = getattr(getattr(transformers, auto, None), "_model_mapping", {})
        if type(config) in mapping or auto in remote:
            return auto
    raise ConfigError(
        f"{name!r} is of type {config.model_type!r}, which is no causal or multimodal language "
        "model that this version of transformers knows"
    )


def _commit(name: str, gguf_file: str | None, revision: str | None) -> str:
    """The hub's commit that the weights came from, by where its cache put a file of them."""
    from transformers.utils.hub import cached_file, extract_commit_hash

    file = cached_file(name, gguf_file or "config.json", revision=revision)
    return str(extract_commit_hash(file, None) or revision or "main")
