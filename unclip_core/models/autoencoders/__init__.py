"""Autoencoders of latent decoders: pictures to latents and back. Convolutions and norms, no sampling."""
