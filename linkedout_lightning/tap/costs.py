"""What an extraction costs, as formulas over a model's matrices and a batch's rows.

Letters: P tokens of a sequence (padding included, as it is computed too), p patches, D hidden
size, W attention width (heads times their size), L tapped layers, S slots.
"""

from __future__ import annotations

from dataclasses import dataclass

_ONES = 2  # a product and a sum for every weight


@dataclass(frozen=True)
class Stack:
    """The transformer blocks that a token, or a patch, goes through.

    Attributes:
        blocks: How many.
        weights: Numbers in their matrices that one token meets; of a mixture of experts those of
            the experts that it is sent to.
        hidden: D, the size of the residual stream.
        attention: W, the queries' heads times their size.
        keys: The keys' heads times their size.
        widest: The most numbers that a token has inside a block, the width of its MLP.
    """

    blocks: int
    weights: int
    hidden: int
    attention: int
    keys: int
    widest: int


@dataclass(frozen=True)
class Vision:
    """The vision tower and what brings its patches to the decoder.

    Attributes:
        stack: Its blocks.
        patch_values: Numbers of the pixels of one patch.
        patch_weights: Numbers of the matrix that embeds a patch.
        merger_weights: Numbers of the matrices behind the blocks.
        merged: How many patches make one row of those.
        full_blocks: Blocks whose patches attend to all of their frame; the others to a window.
        window: Patches of a window.
    """

    stack: Stack
    patch_values: int
    patch_weights: int
    merger_weights: int
    merged: int
    full_blocks: int
    window: int


@dataclass(frozen=True)
class ModelSize:
    """What is counted of a model, up to the deepest layer that is read.

    Attributes:
        text: The decoder's blocks that run.
        vision: None for a model that only reads, or whose tower is of an unknown form.
        parameters: All numbers that the model holds, run or not.
        itemsize: Bytes of a number.
        head: Numbers of the language-model head; it runs only for generated tokens.
        generated: Generated tokens an item.
    """

    text: Stack
    vision: Vision | None
    parameters: int
    itemsize: int
    head: int = 0
    generated: int = 0


@dataclass(frozen=True)
class Load:
    """What goes through a model at once, or in several goes added up.

    Attributes:
        tokens: Tokens, padding included: the sum of P over the sequences.
        squares: The sum of P² over the sequences.
        sequences: How many.
        patches: The sum of p.
        frame_squares: The sum over frames of the square of their patches.
        slots: The most slots that a token is pooled into.
        layers: Layers that are read.
    """

    tokens: int
    squares: int
    sequences: int
    patches: int = 0
    frame_squares: int = 0
    slots: int = 0
    layers: int = 0

    def __add__(self, other: Load) -> Load:
        return Load(
            self.tokens + other.tokens,
            self.squares + other.squares,
            self.sequences + other.sequences,
            self.patches + other.patches,
            self.frame_squares + other.frame_squares,
            max(self.slots, other.slots),
            max(self.layers, other.layers),
        )


@dataclass(frozen=True)
class Flops:
    """Floating point operations by part.

    Attributes:
        text: Decoder blocks.
        vision: Vision tower and merger.
        pooling: Averaging into slots.
        generated: Tokens after the prefill.
    """

    text: int
    vision: int
    pooling: int
    generated: int

    @property
    def total(self) -> int:
        """The sum."""
        return self.text + self.vision + self.pooling + self.generated


def matrix_flops(rows: int, weights: int) -> int:
    """``2 * rows * weights``: what rows cost that meet so many numbers of matrices.

    Example:
        >>> matrix_flops(rows=10, weights=3)
        60
    """
    return _ONES * rows * weights


def attention_flops(pairs: int, width: int, *, causal: bool = False) -> int:
    """``4 * pairs * width``: scores and values of so many pairs of query and key.

    Args:
        pairs: Pairs, P² for a sequence.
        width: Heads times their size.
        causal: Half of it, for a kernel that leaves out the masked half.
    """
    return 2 * _ONES * pairs * width // (2 if causal else 1)


def count_flops(size: ModelSize, load: Load, *, causal: bool = True) -> Flops:
    """Operations of a prefill up to the deepest layer, and of the generated tokens.

    No head and no layer beyond the deepest is in it, and nothing element-wise: it is the part that
    a machine's peak rate is about.

    Args:
        size: The model.
        load: What it reads.
        causal: Whether the kernel leaves out the masked half of the attention: SDPA without a
            mask (a batch without padding) and flash attention do, others compute all of it.
    """
    text = size.text
    return Flops(
        text=matrix_flops(load.tokens, text.weights)
        + text.blocks * attention_flops(load.squares, text.attention, causal=causal),
        vision=0 if size.vision is None else vision_flops(size.vision, load),
        pooling=matrix_flops(load.tokens, text.hidden) * load.slots * load.layers,
        generated=generation_flops(size, load) if size.generated else 0,
    )


def vision_flops(vision: Vision, load: Load) -> int:
    """Operations of the tower over all patches, and of the merger over the rows it makes."""
    windowed = vision.stack.blocks - vision.full_blocks
    pairs = vision.full_blocks * load.frame_squares + windowed * load.patches * vision.window
    return (
        matrix_flops(load.patches, vision.patch_weights + vision.stack.weights)
        + matrix_flops(load.patches // vision.merged, vision.merger_weights)
        + attention_flops(pairs, vision.stack.attention)
    )


def generation_flops(size: ModelSize, load: Load) -> int:
    """Operations of the tokens that are generated after a prefill, the head with each."""
    steps, text = size.generated, size.text
    each = matrix_flops(load.sequences, text.weights + size.head)
    # Step k attends to the prompt and to the k tokens that stand before and at it.
    pairs = steps * load.tokens + load.sequences * steps * (steps + 1) // 2
    return steps * each + text.blocks * attention_flops(pairs, text.attention)


def bytes_moved(size: ModelSize, load: Load, *, batches: int = 1) -> int:
    """The least that must pass through the device's memory.

    Every matrix that runs once a batch, and the residual stream in and out of the two halves of
    every block. What lies between could stay on the chip, so this is a floor.

    Args:
        size: The model.
        load: What it reads, over all batches.
        batches: In how many goes.
    """
    text, moved = size.text, batches * size.text.weights
    moved += 4 * text.blocks * load.tokens * text.hidden
    if (vision := size.vision) is not None and load.patches:
        stack = vision.stack
        moved += batches * (stack.weights + vision.patch_weights + vision.merger_weights)
        moved += load.patches * (vision.patch_values + 4 * stack.blocks * stack.hidden)
    if size.generated:
        cached = 2 * text.blocks * text.keys * load.tokens
        moved += size.generated * (batches * (text.weights + size.head) + cached)
    return moved * size.itemsize


def memory_bytes(size: ModelSize, load: Load) -> int:
    """Estimate of the peak of the device's memory: the weights and the most that lives at once.

    In a block that is three times the hidden size (residual stream, input and normed copy) and
    three times the width of the MLP; the tower's runs before the decoder's, and the pixels and the
    embedded tokens stay. Not in it: what the allocator holds back, the scores of eager attention,
    the states of recurrent blocks.

    Args:
        size: The model.
        load: One batch.
    """
    text = size.text
    live = load.tokens * 3 * (text.hidden + text.widest)
    pixels = 0
    if (vision := size.vision) is not None:
        stack = vision.stack
        # They come in float32, in whatever type the model computes.
        pixels = load.patches * vision.patch_values * (4 + size.itemsize)
        live = max(live, load.patches * 3 * (stack.hidden + stack.widest))
    stays = load.tokens * text.hidden * size.itemsize
    cache = 0
    if size.generated:
        longest = load.tokens + load.sequences * size.generated
        cache = 2 * text.blocks * text.keys * longest * size.itemsize
    return size.parameters * size.itemsize + live * size.itemsize + pixels + stays + cache


def store_bytes(layers: int, slots: int, hidden: int, *, itemsize: int = 2) -> int:
    """Bytes of an item's features and mask in a store, id and bookkeeping apart.

    Example:
        >>> store_bytes(4, 3, 3584)
        86017
    """
    return layers * slots * hidden * itemsize + -(-slots // 8)


def floor_seconds(flops: int, moved: int, *, peak: float, bandwidth: float) -> float:
    """The least time that a device can take: ``max(FLOPs / peak, bytes / bandwidth)``.

    Args:
        flops: Operations.
        moved: Bytes through its memory.
        peak: Operations a second that it reaches on large products.
        bandwidth: Bytes a second.

    Example:
        >>> floor_seconds(2 * 10**12, 10**9, peak=1e12, bandwidth=1e9)
        2.0
    """
    return max(flops / peak, moved / bandwidth)


def hours_per_million(flops_per_item: float, *, sustained: float) -> float:
    """Device hours of a million items: ``10⁶ * FLOPs / (3600 * sustained FLOP/s)``."""
    return 1e6 * flops_per_item / (3600 * sustained)
