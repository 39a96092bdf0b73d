"""`vaefarm top`, and what `vaefarm status` prints: how the farm stands, drawn for a terminal."""
