"""Who hears it: which few nodes this one knows, which of them are alive, and whom to ask. No word of money in here."""
