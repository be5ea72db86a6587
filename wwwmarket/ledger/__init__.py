"""What is agreed: one Merkle tree over opaque entries, its proofs, tiles, checkpoints, notes."""
