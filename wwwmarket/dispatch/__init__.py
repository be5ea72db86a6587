"""Which engine: how long a request will take on an engine, from its table or from what was observed. No clock here."""
