"""What a node needs of the world: protocols only. The simulator implements every one of them a second time."""
