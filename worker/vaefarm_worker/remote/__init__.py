"""Decodes that other machines make: endpoints that speak Hugging Face's remote-VAE protocol.

exchange: what is said to an endpoint, and replies: what its reply is worth, without a network; address: where it is
asked and as whom, and what is never shown; asking: one request over HTTP; trouble: what can be wrong with its answer;
health: how one endpoint does, its circuit breaker; endpoint: all of that together; choosing: which endpoint is asked
next, pure policy; circle: the endpoints of one VAE; tries: one job at one endpoint after another; pacing: how often
and how long; remote_decoder: all of it behind the seam `Decoder`.
"""
