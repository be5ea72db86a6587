"""An open market for LLM inference that nobody owns."""

__version__ = "0.1.0"
