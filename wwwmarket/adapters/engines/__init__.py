"""Engines: any OpenAI-compatible server, an embedded one, and an emulated one."""
