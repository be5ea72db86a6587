"""One node: what it may be asked (service), how machines are run (driver), and the replica that it carries."""
