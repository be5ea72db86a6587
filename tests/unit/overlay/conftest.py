"""Makes ``world.py`` importable by the tests of the overlay as ``overlay_world``."""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

_SPEC = spec_from_file_location("overlay_world", Path(__file__).with_name("world.py"))
sys.modules["overlay_world"] = module_from_spec(_SPEC)
_SPEC.loader.exec_module(sys.modules["overlay_world"])
