"""Several results on one page: a study, from its budget to its costs."""

from linkedout_lightning.study.markdown import render_markdown
from linkedout_lightning.study.parts import Part
from linkedout_lightning.study.report import render_html
from linkedout_lightning.study.results import Study, read_study

__all__ = ["Part", "Study", "read_study", "render_html", "render_markdown"]
