"""Decodes that other machines make: endpoints that speak Hugging Face's remote-VAE protocol.

exchange: what is said to an endpoint and what its reply is worth, without a network; health: how one endpoint does, its
circuit breaker; choosing: which endpoint is asked next, pure policy; asking: one request over HTTP; remote_decoder: all
of it behind the seam `Decoder`.
"""
