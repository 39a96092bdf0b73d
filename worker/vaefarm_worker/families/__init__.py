"""VAE families: from a pipeline's latents to a decoder's input, and back from an encoder. One small module for each
normalisation scheme.

Constants are read from the loaded VAE's own config, never from its name: the same latents are scaled by 0.18215 for
Stable Diffusion's VAE and by 1.0 for its tiny one.
"""
