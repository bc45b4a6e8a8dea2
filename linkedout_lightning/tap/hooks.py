"""Reading hidden states while the model runs, and ending the run once the last was read.

A state is the tensor that Hugging Face would put into ``hidden_states[k]``: the input of the
first block for ``k = 0``, else the output of block ``k``. What a model adds between two blocks
(the DeepStack of Qwen3-VL) is in neither.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from linkedout_lightning.errors import ConfigError, DataError
from linkedout_lightning.tap.layers import Decoder

OnState = Callable[[int, Tensor], bool]
"""Called with a layer and its state ``(b, P, D)``; true ends the forward pass there."""


_STREAMS = ", as it carries several streams of states from block to block"


class _Enough(Exception):  # noqa: N818 - a signal, not a fault
    """All wanted states were read."""


@contextmanager
def reading(decoder: Decoder, layers: Collection[int], on_state: OnState) -> Iterator[None]:
    """Call ``on_state`` with each wanted state of every forward pass run inside.

    When it returns true the forward pass ends there and the ``with`` block is left, silently.
    Nothing is kept: a state lives as long as ``on_state`` holds it. The hooks are gone afterwards,
    whatever happened.

    Raises:
        DataError: If a wanted block did not run: some models skip blocks for some inputs.
    """
    handles = []
    unread = set(layers)

    def note(layer: int, state: Tensor) -> bool:
        unread.discard(layer)
        return on_state(layer, state)

    try:
        for layer in layers:
            block = decoder.blocks[max(layer - 1, 0)]
            hook = _before(note) if layer == 0 else _after(layer, note)
            if layer == 0:
                handles.append(block.register_forward_pre_hook(hook, with_kwargs=True))
            else:
                handles.append(block.register_forward_hook(hook))
        yield
    except _Enough:
        pass
    finally:
        for handle in handles:
            handle.remove()
    if unread:
        raise DataError(
            f"{type(decoder.module).__name__} ran without its layers {sorted(unread)}, which it "
            "skips for such an input (text alone passes by a model's cross-attention); leave "
            "these layers out, or give every item what they read"
        )


def _before(on_state: OnState) -> Callable[..., None]:
    def hook(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        state = args[0] if args else kwargs.get("hidden_states")
        _report(0, state, block, on_state)

    return hook


def _after(layer: int, on_state: OnState) -> Callable[..., None]:
    def hook(block: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        del args
        _report(layer, output[0] if isinstance(output, tuple) else output, block, on_state)

    return hook


def _report(layer: int, state: Any, block: nn.Module, on_state: OnState) -> None:
    if not isinstance(state, Tensor) or state.ndim != 3:
        what = f"a tensor of shape {tuple(state.shape)}" if isinstance(state, Tensor) else state
        raise ConfigError(
            f"{type(block).__name__} (layer {layer}) gave {what!r} where hidden states of shape "
            "(batch, tokens, hidden size) were expected: this architecture cannot be tapped"
            + (_STREAMS if isinstance(state, Tensor) and state.ndim > 3 else "")
        )
    if on_state(layer, state):
        raise _Enough
