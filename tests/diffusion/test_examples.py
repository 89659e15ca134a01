"""The examples of docstrings of discrete samplers run as they are printed."""

import doctest

import pytest

from jaxkd.diffusion import attention_control, ddcm, ddim


@pytest.mark.parametrize("module", [attention_control, ddcm, ddim])
def test_examples(module):
    found = doctest.testmod(module)
    assert found.attempted and not found.failed
