"""One mirror: replays a log, stores it, and cosigns what follows."""
