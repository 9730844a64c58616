"""Fixtures that tests of the laboratory share."""

from __future__ import annotations

import pytest

from tests.lab.first import first
from tvlars.lab import ImageData, load_data


@pytest.fixture(scope="session")
def digits() -> ImageData:
    """scikit-learn's digits; no test changes them."""
    return load_data("digits")


@pytest.fixture(scope="session")
def few(digits: ImageData) -> ImageData:
    """The first 700 training images of the digits, as many batches of 128 per epoch as all have of 256: five."""
    return first(digits, 700)
