"""What the entries mean: versioned, integer-only reducers, read by source hash through ``wwwmarket.rules.registry``."""
