"""OThink-MR1: GRPO with a dynamic KL weight for vision-language models, as a library."""
