"""Who said it: canonical bytes, tagged digests, signatures, sealed boxes. Only here does weaker become stronger."""
