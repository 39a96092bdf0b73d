"""The farm's pages: how it stands, a job, a VAE; drawn by the server, and kept up to date by server-sent events."""
