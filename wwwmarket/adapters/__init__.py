"""The real world behind each port. Adapters see ports, never the node or the market."""
