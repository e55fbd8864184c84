"""What StepCoder adds to PPO: completion curriculum, executed-token mask, prompts, rollouts."""
