"""Every video and multi-image language model of transformers, and whether it can be tapped.

Each type is made from its configuration's defaults, at full size and without weights (meta device,
then fake tensors that have shapes and no values). The tap's own code then looks for the decoder
blocks and for the tokens that stand for visual embeddings, and a text of five tokens runs through
the blocks with the tap's hooks. That shows structure; equality with ``output_hidden_states=True``
is shown by ``tests/tap/test_tap_oracle.py`` for the families named there.

    python benchmarks/models.py            # all: results/models.json, table in docs/models.md
    python benchmarks/models.py gemma4     # only look, and print
"""

# ruff: noqa: E402
from __future__ import annotations

import argparse
import inspect
import json
import logging
import sys
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))
import hf_processors

hf_processors.install()  # before anything imports transformers

import torch
import transformers
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers.models.auto import (
    configuration_auto,
    image_processing_auto,
    modeling_auto,
    processing_auto,
    video_processing_auto,
)

from linkedout_lightning.errors import ConfigError
from linkedout_lightning.tap.anatomy import reading_part, required_names, visual_ids
from linkedout_lightning.tap.hooks import reading
from linkedout_lightning.tap.layers import find_decoder
from linkedout_lightning.tap.loading import auto_class

_ROPE = {"rope_type": "default", "rope_theta": 1e4}
_HALF_ROTARY = _ROPE | {"mrope_section": [8, 12, 12]}
_GLM = {"text_config": {"rope_parameters": _HALF_ROTARY | {"partial_rotary_factor": 0.5}}}
_THINKER = {
    "vision_start_token_id": 151_652,
    "text_config": {"head_dim": 128, "rope_parameters": _ROPE | {"mrope_section": [24, 20, 20]}},
}
COMPLETED: dict[str, dict[str, Any]] = {
    "aya_vision": {
        "vision_config": {"model_type": "siglip_vision_model", "num_attention_heads": 16}
    },
    "chameleon": {"vocabulary_map": {"<image>": 8711}},
    "cohere_compass": {"text_config": {"rope_parameters": {"full_attention": _ROPE}}},
    "deepseek_ocr2": {
        "text_config": {
            "mlp_layer_types": ["dense"] + ["sparse"] * 99,
            "num_experts_per_tok": 6,
            "moe_intermediate_size": 1408,
            "n_group": 1,
            "topk_group": 1,
        }
    },
    "diffusion_gemma": {
        "text_config": {"num_experts": 8, "top_k_experts": 2, "moe_intermediate_size": 512}
    },
    "emu3": {"vocabulary_map": {"<|extra_200|>": 1, "<image>": 151_854}},
    "glm46v": _GLM,
    "glm4v": _GLM,
    "glm4v_moe": {
        "text_config": {
            "rope_parameters": _HALF_ROTARY | {"partial_rotary_factor": 0.5},
            "head_dim": 128,
        }
    },
    "glmga": _GLM,
    "granite4_vision": {"deepstack_layer_map": [[-1, 0]], "downsample_rate": "1/2"},
    "hunyuan_vl": {
        "text_config": {
            "head_dim": 128,
            "rope_parameters": _ROPE | {"mrope_section": [16, 16, 16, 16]},
        }
    },
    "perception_lm": {
        "vision_config": {
            "model_type": "timm_wrapper",
            "architecture": "vit_pe_lang_large_patch14_448",
            "model_args": {"embed_dim": 1024},
            "num_labels": 2,
        }
    },
    "qwen2_5_omni": {"thinker_config": {"vision_start_token_id": 151_652}},
    "qwen2_5_omni_thinker": {"vision_start_token_id": 151_652},
    "qwen3_omni_moe": {
        "thinker_config": _THINKER,
        "talker_config": {
            "spatial_merge_size": 2,
            "text_config": {"shared_expert_intermediate_size": 768},
        },
    },
    "qwen3_omni_moe_thinker": _THINKER,
    "qwen4_exp": {
        "text_config": {
            "indexer_n_heads": 4,
            "indexer_kv_heads": 1,
            "indexer_head_dim": 256,
            "indexer_budget": 2048,
            "indexer_compress_ratio": 64,
        }
    },
    "step3p7": {"text_config": {"sliding_window": 512}},
}
"""What transformers' own defaults leave out, without which they make no model that runs."""


BEGIN, END = "<!-- benchmarks/models.py: begin -->", "<!-- benchmarks/models.py: end -->"
HEADINGS = {
    "by structure": "Found by structure",
    "refused": "Refused",
    "text": "Read as text",
    "not judged": "Not judged",
}


@dataclass
class Finding:
    """What the tap makes of one model type."""

    model_type: str
    frames: str  # "video", "images", or "none"
    blocks: int | None = None
    visual: str = ""  # ids of visual tokens, or who knows them
    width: int | None = None  # size of the states read in the pass over five tokens
    refused: str = ""  # the tap's own words
    unseen: str = ""  # why this program could not make or run it

    @property
    def verdict(self) -> str:
        """The table's word for it."""
        if self.refused:
            return "refused"
        if self.unseen:
            return "not judged"
        return "text" if self.frames == "none" else "by structure"


def model_types() -> list[str]:
    """Types with a multimodal auto class, or a video processor."""
    return sorted(
        {
            *modeling_auto.MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES,
            *video_processing_auto.VIDEO_PROCESSOR_MAPPING_NAMES,
        }
    )


def proven() -> list[str]:
    """Families that the tests hold against ``output_hidden_states=True``."""
    from tiny_models import ASSEMBLIES, IMAGE_FAMILIES, VIDEO_FAMILIES

    return sorted((*VIDEO_FAMILIES, *IMAGE_FAMILIES, *ASSEMBLIES))


def look_at(model_type: str) -> Finding:
    """Make the model and have the tap look at it."""
    finding = Finding(model_type, "none")
    try:
        config = configuration_auto.CONFIG_MAPPING[model_type](**COMPLETED.get(model_type, {}))
        auto = auto_class(transformers, config, model_type)
        with torch.device("meta"):
            made = getattr(transformers, auto).from_config(config, dtype=torch.bfloat16).eval()
        model = reading_part(made)
        decoder = find_decoder(model)
        finding.blocks = len(decoder)
        finding.frames, processor = processor_of(model_type, model)
        ids = sorted(visual_ids(model, processor)) if processor else []
        finding.visual = "by the processor" if ids == [_UNKNOWN] else ", ".join(map(str, ids))
        finding.width = dry_run(model)
    except ConfigError as error:
        finding.refused = str(error)
    except Exception as error:
        finding.unseen = f"{type(error).__name__}: {' '.join(str(error).split())}"[:160]
    return finding


_UNKNOWN = -1


def processor_of(model_type: str, model: Any) -> tuple[str, Any]:
    """How the type's processor takes frames, and a stand-in with what the tap asks of one."""
    name = processing_auto.PROCESSOR_MAPPING_NAMES.get(model_type)
    parts: dict[str, Any] = {"tokenizer": None}
    if name is None:
        # Its checkpoints name the processor of another family.
        video = model_type in video_processing_auto.VIDEO_PROCESSOR_MAPPING_NAMES
        images = model_type in image_processing_auto.IMAGE_PROCESSOR_MAPPING_NAMES
        if not (video or images or visual_ids(model, SimpleNamespace(**parts))):
            return "none", None
        kind = "video" if video else "images"
    else:
        build = processing_auto.processor_class_from_name(name).__init__
        takes = inspect.signature(build).parameters
        kinds = [kind for kind in ("video", "image") if f"{kind}_processor" in takes]
        if not kinds:
            return "none", None
        kind = "video" if "video" in kinds else "images"
        if "qformer_tokenizer" in takes:
            parts["qformer_tokenizer"] = None
        if "self.image_token_id" in inspect.getsource(build):
            # It asks its tokenizer, which there is none of here.
            parts["image_token_ids"] = [_UNKNOWN]
    slot = {"video": "video_processor", "images": "image_processor"}[kind]
    return kind, SimpleNamespace(**parts, **{slot: object()})


def dry_run(model: Any) -> int:
    """Five tokens through fake weights, every layer read by the tap's hooks: the states' size."""
    decoder = find_decoder(model)
    if needed := required_names(model):
        raise TypeError(f"no pass over text alone: it wants {', '.join(sorted(needed))}")
    widths: set[int] = set()

    def note(layer: int, state: torch.Tensor) -> bool:
        del layer
        widths.add(state.shape[-1])
        return False

    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        model.to_empty(device="cpu")
        ids = torch.zeros(1, 5, dtype=torch.long)
        with reading(decoder, range(len(decoder) + 1), note):
            model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
    (width,) = widths
    return width


def render(results: dict[str, Any]) -> str:
    """The findings as Markdown."""
    findings = [Finding(**finding) for finding in results["findings"]]
    tested = set(results["proven"])
    versions = f"transformers {results['transformers']}, torch {results['torch']}"
    lines = [f"`{results['command']}`, {versions}.", ""]
    for verdict, heading in HEADINGS.items():
        chosen = [f for f in findings if f.verdict == verdict and f.model_type not in tested]
        lines += [f"### {heading}: {len(chosen)}", ""]
        if verdict == "text":
            lines += [", ".join(f"`{f.model_type}`" for f in chosen) + ".", ""]
            continue
        if verdict == "by structure":
            lines += ["| type | frames as | visual tokens | blocks | width |"]
            lines += ["| --- | --- | --- | --- | --- |"]
            lines += [
                f"| `{f.model_type}` | {f.frames} | {f.visual} | {f.blocks} | {f.width} |"
                for f in chosen
            ]
        else:
            lines += ["| type | why |", "| --- | --- |"]
            lines += [
                f"| `{f.model_type}` | {(f.refused or f.unseen).replace('|', '/')} |"
                for f in chosen
            ]
        lines += [""]
    return "\n".join(lines).rstrip()


def main() -> None:
    """Look at every type, write the findings and the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("types", nargs="*", help="only look at these, and print")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/models.json")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs/models.md")
    arguments = parser.parse_args()
    transformers.logging.set_verbosity_error()
    logging.disable(logging.ERROR)  # fake tensors log what the caller handles
    findings = [asdict(look_at(name)) for name in arguments.types or model_types()]
    if arguments.types:
        print(json.dumps(findings, indent=1))
        return
    results = {
        "command": "python benchmarks/models.py",
        "transformers": version("transformers"),
        "torch": version("torch"),
        "proven": proven(),
        "findings": findings,
    }
    arguments.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    before, _, rest = arguments.docs.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    table = f"{BEGIN}\n{render(results)}\n{END}"
    arguments.docs.write_text(before + table + after, encoding="utf-8")


if __name__ == "__main__":
    main()
