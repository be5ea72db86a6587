"""One clock, one seed: twins of every port, so that whole networks run, and fail, again in the same way."""
