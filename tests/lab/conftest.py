"""Fixtures that tests of the laboratory share."""

from __future__ import annotations

import pytest

from tvlars.lab import ImageData, load_data


@pytest.fixture(scope="session")
def digits() -> ImageData:
    """scikit-learn's digits; no test changes them."""
    return load_data("digits")
