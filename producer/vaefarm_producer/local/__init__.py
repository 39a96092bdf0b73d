"""A whole farm on this machine: `vaefarm up` and `vaefarm demo`."""
