"""The words: frozen values that every other room speaks in. No behaviour beyond arithmetic on themselves."""
