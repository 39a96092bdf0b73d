"""`vaefarm bench`: what a decode takes of time and memory on this machine, by VAE, size, batch and way of decoding."""
