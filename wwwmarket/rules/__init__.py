"""What follows: contracts by source hash, and the state that entries fold into, with its root."""
