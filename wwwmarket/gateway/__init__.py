"""The door: OpenAI's interface, the market's own and the ledger's tiles, over ``node.service`` alone."""
