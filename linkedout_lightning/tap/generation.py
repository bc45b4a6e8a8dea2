"""Hidden states of greedily generated tokens, with the key-value cache of the prefill."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from linkedout_lightning.tap.hooks import reading
from linkedout_lightning.tap.layers import Decoder

_NO_TOKEN = 2**31 - 1  # in no vocabulary


class GeneratedMean:
    """Mean state of the tokens that a model generates, one sum a layer.

    A token's states are those of the step that reads it. Tokens after the end-of-sequence token
    do not count, that token itself does, so every item has at least one.

    Args:
        tokens: How many tokens to generate.
        end_ids: Ids that end a sequence.
    """

    def __init__(self, tokens: int, *, end_ids: Tensor) -> None:
        self.tokens = tokens
        self._end_ids = end_ids
        self._alive: list[Tensor] = []  # float (b,), one a token chosen so far
        self._sums: dict[int, Tensor] = {}
        self._calls: dict[int, int] = {}

    def chosen(self, input_ids: Tensor, scores: Tensor, **kwargs: Any) -> Tensor:
        """Note the token just chosen; a stopping criterion that never stops."""
        del scores, kwargs
        token = input_ids[:, -1]
        if not self._alive:
            self._alive.append(torch.ones(len(token), device=token.device))
        ended = torch.isin(token, self._end_ids.to(token.device))
        self._alive.append(self._alive[-1] * (~ended))
        return torch.zeros(len(token), dtype=torch.bool, device=token.device)

    def read(self, layer: int, state: Tensor) -> int:
        """Add a step's state ``(b, P or 1, D)``; returns the step, 0 for the prefill."""
        step = self._calls.get(layer, 0)
        self._calls[layer] = step + 1
        if step:
            alive = self._alive[step - 1].to(state.device)
            # The product with 0 would keep a NaN of a row that has ended.
            added = torch.where(alive[:, None] > 0, state[:, -1].float(), 0.0)
            self._sums[layer] = self._sums[layer] + added if layer in self._sums else added
        return step

    def of(self, layer: int) -> Tensor:
        """Mean over each row's tokens, float32 ``(b, D)``."""
        counted = torch.stack(self._alive[: self.tokens]).sum(0).to(self._sums[layer].device)
        return self._sums[layer] / counted[:, None]


def generate(
    model: Any,
    inputs: Mapping[str, Tensor],
    *,
    decoder: Decoder,
    layers: tuple[int, ...],
    on_prefill: Callable[[int, Tensor], None],
    mean: GeneratedMean,
) -> None:
    """Prefill and decode greedily, reading the wanted layers of both.

    Args:
        model: A model that can generate.
        inputs: Arguments of its ``forward``.
        decoder: Its blocks.
        layers: The wanted layers.
        on_prefill: Called with a layer and its state ``(b, P, D)``.
        mean: Collects the states of the generated tokens.
    """
    from transformers import GenerationConfig, StoppingCriteriaList

    config = GenerationConfig(
        # One token more than wanted, as the states of a token come from the step that reads it;
        # that step ends the run before it chooses another.
        max_new_tokens=mean.tokens + 1,
        do_sample=False,
        num_beams=1,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        # Rows go on after their end, so that a row's features do not depend on the others'.
        eos_token_id=_NO_TOKEN,
        pad_token_id=0,
        use_cache=True,
    )
    deepest = max(layers)

    def on_state(layer: int, state: Tensor) -> bool:
        step = mean.read(layer, state)
        if step == 0:
            on_prefill(layer, state)
        return step == mean.tokens and layer == deepest

    with reading(decoder, layers, on_state):
        model.generate(
            **inputs,
            generation_config=config,
            stopping_criteria=StoppingCriteriaList([mean.chosen]),
        )


def end_ids(model: Any, tokenizer: Any) -> Tensor:
    """Ids that end a sequence, by the model's generation settings or its tokenizer."""
    ids = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    if ids is None:
        ids = tokenizer.eos_token_id
    if ids is None:
        ids = []
    return torch.tensor(ids if isinstance(ids, list) else [ids], dtype=torch.long)
