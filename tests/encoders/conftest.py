"""Fixtures of the encoders' tests."""

from __future__ import annotations

import pytest
from encoder_catalogue import Catalogue, make_catalogue


@pytest.fixture
def catalogue() -> Catalogue:
    return make_catalogue()
