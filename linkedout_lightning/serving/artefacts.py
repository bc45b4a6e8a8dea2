"""The sequence encoder for other programs: ``torch.export`` and ONNX.

Both take ``vectors (B, M, H)`` float32 and ``mask (B, M)`` bool with any B and M the bundle's
``max_len``, left-padded, and give ``states (B, H)``.

Nothing here ever loads a ``.pt2`` archive. Those written here hold no pickle, but
:func:`torch.export.load` unpickles what an archive may hold and hands strings of it to sympy, which
runs them: it is for programs that trust who exported it.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from linkedout_lightning.errors import ConfigError, DataError, MissingExtraError
from linkedout_lightning.serving.sequence import LastState

FORMATS = ("torch.export", "onnx")
SUFFIX = {"torch.export": "encoder.pt2", "onnx": "encoder.onnx"}
_OPSET = 18
_TOLERANCE = 1e-3


def check_formats(formats: tuple[str, ...]) -> None:
    """Refuse formats that there are not, or that packages are missing for.

    Raises:
        ConfigError: An unknown one.
        MissingExtraError: ONNX is asked for without its packages.
    """
    for name in formats:
        if name not in FORMATS:
            raise ConfigError(f"`formats` holds {name!r}; give some of {', '.join(FORMATS)}")
    if "onnx" in formats:
        for package in ("onnx", "onnxscript", "onnxruntime"):
            _need(package)


def write_artefact(
    name: str, encoder: LastState, *, dim: int, max_len: int
) -> tuple[bytes, float | None]:
    """A sequence encoder in another format.

    Args:
        name: One of :data:`FORMATS`.
        encoder: The encoder, in evaluation mode.
        dim: H.
        max_len: M.

    Returns:
        The file's content, and the largest difference of its states from the module's, as ONNX
        Runtime computes them; None for ``torch.export``, whose program is the module's own
        operations.

    Raises:
        DataError: What came out does not compute the same.
    """
    vectors, mask = _example(3, dim, max_len)
    batch = torch.export.Dim("batch", min=1, max=1 << 20)
    shapes = {"vectors": {0: batch}, "mask": {0: batch}}
    with _quiet(), torch.no_grad():
        if name == "torch.export":
            program = torch.export.export(
                encoder, (), {"vectors": vectors, "mask": mask}, dynamic_shapes=shapes
            )
            program.example_inputs = None  # the one part that would be pickled
            stream = io.BytesIO()
            torch.export.save(program, stream)
            return stream.getvalue(), None
        made: Any = torch.onnx.export(
            encoder,
            (),
            kwargs={"vectors": vectors, "mask": mask},
            dynamic_shapes=shapes,
            input_names=["vectors", "mask"],
            output_names=["states"],
            opset_version=_OPSET,
            dynamo=True,
            verbose=False,
        )
    content: bytes = made.model_proto.SerializeToString()
    return content, _difference(content, encoder, dim, max_len)


def onnx_encoder(content: bytes, *, max_len: int) -> Callable[[Tensor, Tensor], Tensor]:
    """The encoder in ONNX Runtime, on the CPU.

    Args:
        content: The model.
        max_len: M, to which shorter batches are padded.

    Raises:
        MissingExtraError: ONNX Runtime is not installed.
        DataError: It is no model that it can run.
    """
    runtime = _need("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    try:
        session = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors share no class of their own
        words = " ".join(str(error).split())
        raise DataError(f"ONNX Runtime cannot run the sequence encoder: {words}") from None

    def encode(vectors: Tensor, mask: Tensor) -> Tensor:
        short = max_len - mask.shape[1]
        if short:
            vectors = torch.nn.functional.pad(vectors, (0, 0, short, 0))
            mask = torch.nn.functional.pad(mask, (short, 0))
        [states] = session.run(None, {"vectors": vectors.detach().numpy(), "mask": mask.numpy()})
        return torch.from_numpy(states)

    return encode


def _difference(content: bytes, encoder: LastState, dim: int, max_len: int) -> float:
    run = onnx_encoder(content, max_len=max_len)
    vectors, mask = _example(17, dim, max_len)
    with torch.no_grad():
        expected = encoder(vectors, mask)
    difference = float((run(vectors, mask) - expected).abs().max())
    if not difference <= _TOLERANCE * max(1.0, float(expected.abs().max())):
        raise DataError(
            f"the ONNX form of the sequence encoder differs from it by {difference:.2g}; leave the "
            "format out"
        )
    return difference


def _example(users: int, dim: int, max_len: int) -> tuple[Tensor, Tensor]:
    """Sequences of every length, one without an item among them."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.arange(users) * max(1, max_len // max(users - 1, 1))
    mask = torch.arange(max_len) >= max_len - lengths[:, None].clamp(max=max_len)
    return torch.randn(users, max_len, dim, generator=generator) * mask[..., None], mask


@contextmanager
def _quiet() -> Iterator[None]:
    # Both exporters tell of their inner steps, by warnings and on the log.
    names = ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")
    levels = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def _need(package: str) -> Any:
    from importlib import import_module

    try:
        return import_module(package)
    except ImportError as error:
        raise MissingExtraError(package, "onnx", "the ONNX form of a bundle") from error
