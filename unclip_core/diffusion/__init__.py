"""Noise schedules, samplers and guidance: arithmetic on tensors, without any network."""
