"""The gateway: the farm over HTTP, for those who have no Redis credentials. It imports no torch."""
