"""What the SFT and the GRPO trainer share."""
