"""Noise schedules, the denoiser, samplers and DDIM inversion: arithmetic on tensors, for any network."""
