"""The embedded default: a simulated world of short clips and a small video LLM that sees it.

Nothing here is imported by the rest of the package. `world` says what a clip is made of, `render`
and `videos` make pixels and files of it, `captions` says it in words, `simulate` lets users choose,
`model` and `train` make the video LLM whose weights lie in `weights/`, and `probe` measures what
its layers know.
"""

from linkedout_lightning.demo.model import WEIGHTS
from linkedout_lightning.demo.simulate import WorldFiles, generate_world

__all__ = ["WEIGHTS", "WorldFiles", "generate_world"]
