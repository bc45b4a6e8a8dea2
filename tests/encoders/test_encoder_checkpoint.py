"""Checkpoints: small, without features, and the same vectors in another process."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from encoder_catalogue import WIDTH, Catalogue, make_features
from safetensors.torch import load_file, save_file

from linkedout_lightning.encoders import LinkedOutItemEncoder
from linkedout_lightning.encoders.sources import TensorStore
from linkedout_lightning.errors import StoreSpecError
from linkedout_lightning.store import StoreSpec

# What another process does with the checkpoint: the catalogue is made again, the weights loaded.
REBUILD = """
import sys, torch
from encoder_catalogue import make_catalogue, make_features
from safetensors.torch import load_file, save_file
from linkedout_lightning.encoders import LinkedOutItemEncoder
c = make_catalogue()
options = eval(sys.argv[1])
# Another whitening would be fitted here (on all items), and the vectors are asked for before the
# checkpoint is loaded: both must be undone by loading.
encoder = LinkedOutItemEncoder.from_features(c.features, c.mask, dim=8, rank=12, **options).eval()
stale = encoder.all_items()
encoder.load_state_dict(load_file(sys.argv[2]))
with torch.no_grad():
    save_file({"table": encoder.all_items(), "stale": stale.detach(),
               "new": encoder.encode_features(make_features(5, seed=77))}, sys.argv[3])
"""


def build(catalogue: Catalogue, **options: Any) -> LinkedOutItemEncoder:
    return LinkedOutItemEncoder.from_features(
        catalogue.features, catalogue.mask, dim=8, rank=12, **options
    )


@pytest.mark.parametrize("options", [{}, {"id_fusion": "concat", "compressor": "mean"}])
def test_a_fresh_process_gives_the_same_vectors(
    catalogue: Catalogue, tmp_path: Path, options: dict[str, Any]
) -> None:
    encoder = build(catalogue, train_items=catalogue.train, **options)
    optimizer = torch.optim.Adam(encoder.parameters(), lr=0.05)
    for _ in range(3):
        optimizer.zero_grad()
        (encoder.all_items() - 1).square().sum().backward()
        optimizer.step()
    encoder.eval()
    save_file(encoder.state_dict(), tmp_path / "weights.safetensors")
    subprocess.run(
        [sys.executable, "-c", REBUILD, repr(options), tmp_path / "weights.safetensors",
         tmp_path / "out.safetensors"],
        check=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
    )  # fmt: skip
    out = load_file(tmp_path / "out.safetensors")
    with torch.no_grad():
        torch.testing.assert_close(out["table"], encoder.all_items(), rtol=0, atol=0)
        new = encoder.encode_features(make_features(5, seed=77))
        torch.testing.assert_close(out["new"], new, rtol=0, atol=0)
    assert not torch.equal(out["stale"], out["table"])


def test_the_state_holds_no_feature(catalogue: Catalogue) -> None:
    small, large = (
        build(catalogue),
        build(
            Catalogue(
                make_features(500, seed=2), torch.ones(500, 2, dtype=torch.bool), catalogue.train
            )
        ),
    )
    large.all_items()
    sizes = [{k: tuple(v.shape) for k, v in e.state_dict().items()} for e in (small, large)]
    assert sizes[0] == sizes[1]  # nothing depends on the catalogue
    assert {"whitening.mean", "whitening.projection"} <= set(sizes[0])
    assert not list(small.buffers())
    own = {"whitening.mean", "whitening.projection", "trained_on"}
    assert own | set(dict(small.named_parameters())) == set(sizes[0])


def test_a_state_loads_around_any_catalogue(catalogue: Catalogue) -> None:
    trained = build(catalogue).eval()
    features = make_features(3, seed=8)
    for count in (3, 1):  # one item alone could not even be whitened by itself
        other = LinkedOutItemEncoder.from_features(features[:count], dim=8, rank=12).eval()
        other.load_state_dict(trained.state_dict())
        torch.testing.assert_close(
            other.all_items()[1:], trained.encode_features(features[:count]), atol=1e-6, rtol=1e-5
        )


def test_an_encoder_that_was_never_used_saves_its_statistics(catalogue: Catalogue) -> None:
    unused = build(catalogue)
    state = torch.nn.Sequential(unused).state_dict()  # as a child, as Lightning saves it
    assert state["0.whitening.projection"].any()


def test_loading_the_same_statistics_keeps_the_tokens(catalogue: Catalogue) -> None:
    encoder = build(catalogue)
    encoder.prepare()
    tokens = encoder._table._tokens
    encoder.load_state_dict(encoder.state_dict())
    encoder.prepare()
    assert encoder._table._tokens is tokens


def spec_of(**changes: Any) -> StoreSpec:
    values: dict[str, Any] = {
        "model": "one", "revision": "abc", "layers": (2, 4, 9), "slots": ("text", "last"),
        "hidden_size": WIDTH, **changes,
    }  # fmt: skip
    return StoreSpec(**values)


class SpecifiedStore(TensorStore):
    """Tensors at hand under a real store's specification."""

    def __init__(self, catalogue: Catalogue, spec: StoreSpec) -> None:
        super().__init__(catalogue.features[..., : spec.hidden_size], catalogue.mask)
        self.spec = spec  # type: ignore[assignment]


def encoder_on(catalogue: Catalogue, **changes: Any) -> LinkedOutItemEncoder:
    options = {k: changes.pop(k) for k in ("use_layers", "fuser") if k in changes}
    store = SpecifiedStore(catalogue, spec_of(**changes))
    return LinkedOutItemEncoder(store, store.item_ids, dim=8, rank=12, **options).eval()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": "two"}, "model: 'one' in the checkpoint, 'two' here"),
        ({"revision": "abd"}, "revision: 'abc' in the checkpoint, 'abd' here"),
        ({"layers": (2, 4, 8)}, "layers: [2, 4, 9] in the checkpoint, [2, 4, 8] here"),
        ({"use_layers": (9, 4, 2)}, "layers: [2, 4, 9] in the checkpoint, [9, 4, 2] here"),
        ({"slots": ("title", "last")}, "slots: ['text', 'last'] in the checkpoint, ['title'"),
        ({"hidden_size": WIDTH - 1}, "hidden_size: 24 in the checkpoint, 23 here"),
    ],
)
def test_weights_of_other_features_are_refused(
    catalogue: Catalogue, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    trained = torch.nn.ModuleDict({"encoder": encoder_on(catalogue)})
    torch.save(trained.state_dict(), tmp_path / "weights.pt")
    state = torch.load(tmp_path / "weights.pt", weights_only=True)
    other = torch.nn.ModuleDict({"encoder": encoder_on(catalogue, **changes)})
    before = other["encoder"].scale.clone()
    with pytest.raises(StoreSpecError, match=re.escape(words)) as caught:
        other.load_state_dict(state)
    assert str(caught.value).count("in the checkpoint") == 1
    assert "without 'encoder.trained_on'" in str(caught.value)
    assert torch.equal(other["encoder"].scale, before)
    if "hidden_size" not in changes:
        state.pop("encoder.trained_on")
        other.load_state_dict(state)


def test_what_the_weights_do_not_depend_on_may_differ(catalogue: Catalogue) -> None:
    state = encoder_on(catalogue).state_dict()
    for changes in ({"dtype": "float32"}, {"prompt": "Hi {title}"}, {"versions": {"torch": "9"}}):
        encoder_on(catalogue, **changes).load_state_dict(state)
    # A layer that is not used, and names that nobody gave.
    last = encoder_on(catalogue, fuser="last").state_dict()
    encoder_on(catalogue, layers=(1, 3, 9), fuser="last").load_state_dict(last)
    build(catalogue).eval().load_state_dict(state)
    with pytest.raises(StoreSpecError, match="layers"):
        build(catalogue, layers=(1, 2, 3)).load_state_dict(state)


def test_states_without_a_description_load_as_they_did(catalogue: Catalogue) -> None:
    trained = encoder_on(catalogue)
    state = trained.state_dict()
    state.pop("trained_on")
    other = encoder_on(catalogue, model="two")
    other.load_state_dict(state, strict=True)
    assert torch.equal(other.all_items(), trained.all_items())
    with pytest.raises(RuntimeError, match=r"Missing key.*scale"):
        other.load_state_dict({k: v for k, v in state.items() if k != "scale"})
    with pytest.raises(RuntimeError, match=r"Unexpected key.*odd"):
        other.load_state_dict(state | {"odd": torch.zeros(1)})
    with pytest.raises(StoreSpecError, match="'trained_on' of the checkpoint is damaged"):
        other.load_state_dict(state | {"trained_on": torch.zeros(3, dtype=torch.uint8)})


def test_a_state_of_another_shape_is_refused(catalogue: Catalogue) -> None:
    state = build(catalogue).state_dict()
    other = LinkedOutItemEncoder.from_features(make_features(9, seed=1)[:, :2], dim=8, rank=12)
    with pytest.raises(RuntimeError, match="layers, slots, hidden size and rank must be those"):
        other.load_state_dict(state)
