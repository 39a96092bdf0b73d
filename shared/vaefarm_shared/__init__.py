"""What producers and workers agree on: jobs, latents, keys, transitions. Imports neither torch nor aiohttp."""
