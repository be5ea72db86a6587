"""The same scripted market as the unit tests of the gateway have."""

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

from wwwmarket.gateway.app import create_app
from wwwmarket.gateway.config import GatewayConfig

_UNIT = Path(__file__).parents[2] / "unit" / "gateway" / "conftest.py"


@pytest.fixture(scope="module")
def scripted():
    """The module that the market is written in."""
    spec = spec_from_file_location("scripted_gateway_market", _UNIT)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def app(scripted):
    return create_app(scripted.ScriptedMarket(), config=GatewayConfig())
