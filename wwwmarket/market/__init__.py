"""The path of a request, one step machine a stage. Stages never import each other: they meet in records and in node."""
