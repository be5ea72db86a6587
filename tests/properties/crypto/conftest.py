"""Makes ``strategies.py`` importable by the tests beside it as ``crypto_strategies``."""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

_SPEC = spec_from_file_location("crypto_strategies", Path(__file__).with_name("strategies.py"))
sys.modules["crypto_strategies"] = module_from_spec(_SPEC)
_SPEC.loader.exec_module(sys.modules["crypto_strategies"])
