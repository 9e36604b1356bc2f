"""Sampling: noise schedules come from diffusers, the loop and its clock are ours."""
